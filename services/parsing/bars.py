"""Progress bars, written out: what a bar draws, in words that the grammar reads.

Epoch 1:  50%|#### | 3/6 [00:01<00:01, 2.1it/s, loss=0.5]   ->   Epoch 1, step 3/6, eta 00:01, loss=0.5
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.parsing.vocabulary import RATE_UNITS

_PERCENT_BAR = re.compile(
    r":? ?[0-9]{1,3}%\|[^|]{0,400}\| ?(?P<done>[0-9]{1,12})/(?P<total>[0-9]{1,12}) ?"
    r"\[[0-9:]{1,12}<(?P<left>[0-9:?]{1,12}|[0-9]{1,4} days?, [0-9:]{1,12})"
    r"(?:, ?(?P<rate>[^,\]]{0,40}))?(?:, ?)?(?P<rest>[^\]]{0,4000})\]?"
)
"""tqdm's bar with counts."""
_OTHER_BAR = re.compile(
    r"[0-9.]{1,12}[A-Za-z]?%?\|[^|]{0,400}\|[^\[]{0,60}\[[0-9:?]{1,12}<?|\[[0-9:]{1,12}, [^\]]{0,40}(?:it|B)/s"
)
"""A bar that counts something else: bytes, or nobody knows how many."""
_DRAWN = re.compile(r"\[[=>.#\- ]{6,}\]|[█▉▊▋▌▍▎▏░▒▓━─╸╺═]{3,}|[=#>]{8,}")
_GONE_AND_LEFT = re.compile(r"[0-9]{1,3}:[0-9]{2}:[0-9]{2} • ([0-9]{1,3}:[0-9]{2}:[0-9]{2})")
"""As Rich's bar writes it."""
_RATE = re.compile(r" *[0-9.]{1,20} ?([A-Za-z]{1,12}/s)")
_LOGGED_BEHIND = re.compile(r"\][^\[\]]{0,80}?(?=[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})")


@dataclass(frozen=True, slots=True)
class WrittenOut:
    """A message without its bar.

    Attributes:
        is_bar: it was a bar with counts.
        is_drawn: something was drawn; a count without a key is the step.
        counts_images: the bar's count is of images, not of steps.
    """

    text: str
    is_bar: bool = False
    is_drawn: bool = False
    counts_images: bool = False


def behind_a_bar(text: str) -> str | None:
    """The logger's line that was written behind a progress bar without a line's end, and hides it."""
    behind = _LOGGED_BEHIND.search(text) if "s]" in text or "s, " in text else None
    return None if behind is None else text[behind.end() :]


def write_out(text: str) -> WrittenOut | None:
    """`text` with its bar in words; None where the bar is of a download or the like."""
    if "•" in text:
        text = _GONE_AND_LEFT.sub(r", eta \1 ", text)
    bar = _PERCENT_BAR.search(text) if "%|" in text else None
    if bar is not None:
        return _write_out_counts(text[: bar.start()], bar, text[bar.end() :].strip())
    if "[" in text and ("|" in text or "/s]" in text) and _OTHER_BAR.search(text):
        return None
    text, drawn = _DRAWN.subn("  ", text)
    return WrittenOut(text, is_drawn=drawn > 0)


def _write_out_counts(described: str, bar: re.Match[str], behind: str) -> WrittenOut:
    is_of_epochs = described.strip(" :[]").lower().endswith(("epoch", "epochs"))
    rate = _RATE.match(bar["rate"] or "")
    is_of_images = rate is not None and rate[1].lower() in RATE_UNITS
    parts = [described, f"{'epoch' if is_of_epochs else 'step'} {bar['done']}/{bar['total']}"]
    if not is_of_epochs and "?" not in bar["left"]:
        parts.append(f"eta {bar['left']}")
    if is_of_images:
        parts.append(bar["rate"])
    parts += [bar["rest"], behind]
    return WrittenOut(", ".join(filter(None, parts)), is_bar=True, counts_images=is_of_images)

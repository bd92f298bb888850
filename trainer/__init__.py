"""The built-in image classification trainer: one request in, log lines and checkpoints out.

It is a trainer like a stranger's: whatever watches it reads the text that it logs, nothing else. It
imports only `models`; torch is imported by the modules that train (`loop`, `network`, `data`,
`checkpoint`), never by this one nor by `catalogue`, `preflight`, `checkpoint_file`, `roots` and `errors`,
so that a request can be checked by a process that must answer at once.
"""

import { h } from "../dom.js";
import { t } from "../i18n.js";

export function signInForm(api, onDone) {
  const token = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const problem = h("p", { class: "bad", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await api.signIn(token.value);
      await onDone();
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  return h(
    "form",
    { class: "card narrow", onsubmit: submit },
    h("h1", {}, t("signInTitle")),
    h("label", { for: "token" }, t("token")),
    token,
    problem,
    h("button", { class: "main" }, t("signIn")),
  );
}

// Sends the buttons drawn by views.py (data-act, data-id, data-value) on to Python as one event,
// and keeps the newest message in sight. Runs once when the component is shown.
const send = (button) => {
  const box = button.closest("[data-reply]");
  const field = box ? box.querySelector("textarea, input") : null;
  trigger("click", {
    act: button.dataset.act,
    id: button.dataset.id || (box ? box.dataset.reply : ""),
    other: button.dataset.other || "",
    value: button.dataset.value || "",
    text: field ? field.value : "",
  });
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button && event.detail < 2) send(button);
});
// A button that was drawn anew between press and release gets no click from the browser.
let pressed = null;
element.addEventListener("pointerdown", (event) => {
  pressed = event.target.closest("[data-act]");
});
element.addEventListener("pointerup", (event) => {
  const button = event.target.closest("[data-act]");
  if (button && pressed && !pressed.isConnected && button.outerHTML === pressed.outerHTML) {
    send(button);
  }
  pressed = null;
});
element.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
  event.preventDefault();
  const button = event.target.parentElement.querySelector("[data-act]");
  if (button) send(button);
});
const scroller = element.closest("#scroller");
if (scroller) {
  let seen = "";
  const follow = () => {
    const live = document.querySelector("#live .talk");
    const talk = element.querySelector(".talk");
    const mark = `${talk ? talk.dataset.cid : ""}:${element.querySelectorAll(".msg").length}:${
      live ? live.textContent.length : 0}`;
    if (mark !== seen) scroller.scrollTop = scroller.scrollHeight;
    seen = mark;
  };
  new MutationObserver(follow).observe(scroller, { childList: true, subtree: true, characterData: true });
}

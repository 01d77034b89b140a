// What htmx does not do: events of a job, copying a command, and bringing an error into view. Pages work without it.
"use strict";

function listen(place) {
  const source = new EventSource(place.dataset.events);
  const show = (event) => { place.innerHTML = event.data; };  // a template of ours, in which all text is escaped
  source.addEventListener("message", show);
  source.addEventListener("ended", (event) => {
    source.close();
    show(event);
    document.querySelectorAll("[data-while-running]").forEach((each) => { each.hidden = true; });
    document.querySelectorAll("[data-when-ended]").forEach((each) => { each.hidden = false; });
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("[data-events]").forEach(listen);
  const problem = document.getElementById("problem");
  if (problem) {
    new MutationObserver(() => {
      if (problem.childElementCount) {
        problem.scrollIntoView({ block: "nearest" });
        problem.focus({ preventScroll: true });
      }
    }).observe(problem, { childList: true });
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const line = button.closest(".line").querySelector("code").textContent;
  await navigator.clipboard.writeText(line);
  button.textContent = "Copied";
});

document.addEventListener("htmx:before:request", (event) => {
  const problem = document.getElementById("problem");
  if (problem && event.detail.ctx.request.method !== "GET") problem.replaceChildren();
});

document.addEventListener("htmx:error", () => {
  const problem = document.getElementById("problem");
  if (!problem) return;
  const said = document.createElement("div");
  said.className = "problem";
  said.textContent = "The server does not answer. Is `pogfast ui` still running in its terminal?";
  problem.replaceChildren(said);
});

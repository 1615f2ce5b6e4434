// Fetches this page again every few seconds and swaps the parts that have changed. The page works without it.
"use strict";
const EVERY = 5000;
let answered = document.querySelector("#clock time").textContent;

async function refresh(address) {
  const response = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(EVERY) });
  if (!response.ok && response.status !== 404) throw new Error(response.statusText);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (!now || now.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? path(document.activeElement) : null;
    const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    part.className = now.className;
    part.innerHTML = now.innerHTML;
    part.querySelectorAll(".scroll").forEach((one, n) => { one.scrollLeft = scrolled[n] || 0; });
    if (focused) part.querySelector(focused)?.focus({ preventScroll: true });
  }
  document.title = fresh.title;
  answered = document.querySelector("#clock time").textContent;
}

// Finds the focused link again after its part was swapped.
function path(element) {
  const href = element.getAttribute("href");
  return href ? `a[href="${CSS.escape(href)}"]` : element.classList.contains("scroll") ? ".scroll" : null;
}

async function tick() {
  if (document.hidden) return;
  try {
    await refresh(location.href);
    lost(false);
  } catch {
    lost(true);
  }
}

function lost(yes) {
  const notice = document.getElementById("lost");
  notice.querySelector("span").textContent = answered;
  notice.hidden = !yes;
}

const filter = document.getElementById("filter");
if (filter) {
  const apply = () => {
    const query = new URLSearchParams(new FormData(filter));
    history.replaceState(null, "", `/?${query}`);
    tick();
  };
  let soon;
  filter.querySelector("button").hidden = true;
  filter.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(apply, 150); });
  filter.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
}
setInterval(tick, EVERY);
document.addEventListener("visibilitychange", tick);

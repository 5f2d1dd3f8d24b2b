// The page's one script. Without it the page is read as it is; with it, it refreshes itself and keeps its place, its links
// lead out of Airflow's frame, and the button works.
"use strict";
(() => {
  const EVERY_MS = 10_000;
  const inFrame = window.parent !== window;
  let token = null; // of Airflow 3.0, which keeps its login in the browser's storage and not in a cookie
  let newest = 0; // of several requests under way, the answer of the newest counts

  // ---- Light and dark: as Airflow has it, which keeps it under "theme" and on its own root element.

  function setTheme() {
    let theme = null;
    try {
      const airflow = inFrame ? window.parent.document.documentElement : null;
      theme = airflow?.classList.contains("dark") ? "dark" : airflow?.classList.contains("light") ? "light" : null;
      theme ??= localStorage.getItem("theme");
    } catch { /* another site's frame */ }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = ["dark", "light"].includes(theme) ? theme : dark ? "dark" : "light";
  }
  setTheme();
  addEventListener("storage", setTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", setTheme);
  try {
    if (inFrame) new MutationObserver(setTheme).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
  } catch { /* another site's frame */ }

  // ---- Asking the server.

  function ask(url, options = {}) {
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    return fetch(url, { ...options, headers, credentials: "same-origin", redirect: "error" });
  }

  async function pageAt(url) {
    const answer = await ask(url);
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  // ---- Going from one page to another, and refreshing this one.

  function show(page) {
    document.title = page.title;
    document.body.replaceWith(page.body);
  }

  async function visit(url, { remember = true } = {}) {
    const mine = ++newest;
    document.getElementById("live")?.classList.add("loading");
    try {
      const page = await pageAt(url);
      if (mine !== newest) return;
      if (remember) history.pushState(null, "", url);
      show(page);
      document.getElementById("content").focus({ preventScroll: true });
      scrollTo(0, 0);
      if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView({ block: "center" });
    } catch {
      if (mine === newest) location.assign(url); // the browser says what is wrong
    }
  }

  async function refresh() {
    const wanted = document.getElementById("refreshing")?.checked && !document.querySelector("dialog[open]");
    if (!wanted || document.hidden || document.getElementById("signing-in")) return;
    const mine = ++newest;
    try {
      const page = await pageAt(location.href);
      if (mine !== newest || document.querySelector("dialog[open]")) return;
      if (!page.getElementById("live")) throw new Error("not our page");
      replaceLive(page.getElementById("live"));
      say(page.getElementById("refreshed").textContent);
    } catch {
      if (mine === newest) say("The API server does not answer; trying again.", true);
    }
  }

  function say(text, problem = false) {
    const said = document.getElementById("refreshed");
    said.textContent = text;
    said.classList.toggle("problem", problem);
  }

  // What is open stays open, what has the focus keeps it, and the page does not move.
  function replaceLive(next) {
    const live = document.getElementById("live");
    const open = [...live.querySelectorAll("details[open][id]")].map((details) => details.id);
    const scrolled = live.querySelector(".scroll")?.scrollLeft ?? 0;
    const focused = live.contains(document.activeElement) ? placeOf(document.activeElement) : null;
    for (const id of open) next.ownerDocument.getElementById(id)?.setAttribute("open", "");
    if (live.innerHTML === next.innerHTML) return;
    live.replaceWith(next);
    const scroll = next.querySelector(".scroll");
    if (scroll) scroll.scrollLeft = scrolled;
    if (focused) (next.querySelector(focused) ?? document.getElementById("content")).focus({ preventScroll: true });
  }

  function placeOf(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const row = element.closest("[id]");
    const within = row && row.id !== "live" ? `#${CSS.escape(row.id)} ` : "";
    const href = element.getAttribute("href");
    const which = href === null ? "" : `[href="${CSS.escape(href)}"]`;
    return `${within}${element.localName}${which}`;
  }

  // ---- Links: ours change this page; Airflow's leave its frame, which a link in it may not do by itself.

  function leaveFrame(url, newTab) {
    const link = window.parent.document.createElement("a");
    link.href = url;
    if (newTab) Object.assign(link, { target: "_blank", rel: "noopener" });
    window.parent.document.body.append(link);
    link.click();
    link.remove();
  }

  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button !== 0) return;
    const newTab = event.ctrlKey || event.metaKey || event.shiftKey;
    if (link.dataset.airflow !== undefined) {
      if (inFrame) {
        event.preventDefault();
        leaveFrame(link.href, newTab);
      }
    } else if (!newTab && link.origin === location.origin && !link.getAttribute("href").startsWith("#")) {
      event.preventDefault();
      visit(link.href);
    }
  });

  addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    const given = [...new FormData(form)].filter(([, value]) => value !== "");
    visit(`${form.action}${given.length ? `?${new URLSearchParams(given)}` : ""}`);
  });

  addEventListener("popstate", () => visit(location.href, { remember: false }));

  // ---- The button and its dialog.

  addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    const dialog = button?.closest("dialog");
    if (button?.dataset.dialog) document.getElementById(button.dataset.dialog).showModal();
    else if (button?.dataset.close !== undefined) close(dialog);
    else if (button?.dataset.bump !== undefined) bump(dialog, button);
  });

  addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code); // also where the browser does not let a page copy
    await navigator.clipboard?.writeText(code.textContent);
    button.textContent = "Copied";
  });

  function close(dialog) {
    dialog.close();
    if (dialog.dataset.done !== undefined) refreshNow();
  }

  function refreshNow() {
    visit(location.href, { remember: false });
  }

  addEventListener("close", (event) => {
    if (event.target.dataset?.done !== undefined) refreshNow(); // by the Escape key
  }, true);

  async function bump(dialog, button) {
    const batches = JSON.parse(dialog.dataset.batches);
    const progress = dialog.querySelector(".progress");
    for (const each of dialog.querySelectorAll("button")) each.disabled = true;
    button.textContent = "Moving…";
    try {
      let answer, said, soFar;
      for (const dag_run_ids of batches) {
        answer = await ask(dialog.dataset.url, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-Dagbump-Token": dialog.dataset.token },
          body: JSON.stringify({ dag_run_ids, so_far: soFar }),
        });
        said = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!answer.ok) break;
        const title = said.querySelector("[data-so-far]");
        soFar = JSON.parse(title.dataset.soFar);
        progress.textContent = title.textContent;
      }
      const what = answer.ok ? said.body : said.getElementById("live") ?? said.body;
      // After an error, what the batches before it have done stays.
      dialog.replaceChildren(...(answer.ok || !soFar ? [] : [progress]), ...what.childNodes);
      dialog.dataset.done = "";
    } catch {
      const problem = document.createElement("p");
      problem.className = "problem";
      problem.setAttribute("role", "alert");
      problem.textContent = "The API server does not answer. What it has done, the history tells.";
      dialog.replaceChildren(problem);
    }
    if (!dialog.querySelector("[data-close]")) {
      const done = document.createElement("button");
      done.type = "button";
      done.dataset.close = "";
      done.textContent = "Close";
      dialog.append(done);
    }
    dialog.querySelector("[data-close]").focus();
  }

  // ---- The beginning.

  async function logIn() {
    token = localStorage.getItem("token")?.replace(/^"|"$/g, "") || null;
    if (!token) return;
    const answer = await ask(location.href);
    if (answer.status === 401 || answer.status === 403) token = null; // an old one
    else show(new DOMParser().parseFromString(await answer.text(), "text/html"));
  }

  addEventListener("DOMContentLoaded", () => {
    if (document.getElementById("signing-in")) logIn();
  });
  setInterval(refresh, EVERY_MS);
  addEventListener("visibilitychange", refresh);
})();

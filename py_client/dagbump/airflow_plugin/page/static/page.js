// The page's one script. Without it the page is read as it is. With it, the page refreshes itself, Airflow's address leads back
// to it, times are the user's, links lead out of Airflow's frame, and the button works.
"use strict";
(() => {
  const EVERY_MS = 10_000;
  const GIVE_UP_MS = 120_000; // longer than any answer takes: a statement ends after 30 s
  // The page allows no other frame than one of the same origin, see its Content-Security-Policy.
  const airflow = window.parent === window ? null : window.parent;
  const byId = (id) => document.getElementById(id);

  // ---- Light and dark: as Airflow has it, which keeps it under "theme" and on its own root element.

  function setTheme() {
    const airflows = airflow?.document.documentElement.classList;
    const theme = ["dark", "light"].find((name) => airflows?.contains(name)) ?? localStorage.getItem("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = ["dark", "light"].includes(theme) ? theme : dark ? "dark" : "light";
  }
  setTheme();
  addEventListener("storage", setTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", setTheme);
  if (airflow) new MutationObserver(setTheme).observe(airflow.document.documentElement, { attributeFilter: ["class"] });

  // ---- The place. The address says all of it, and every link and form is a real one. In its frame, Airflow 3.3 repeats the
  // frame's address behind its own, once the frame has loaded, and begins there. Airflow 3.1 and 3.2 do neither, but show the
  // page under such an address too. So do both here, in the same form.

  function keepPlace() {
    const [, menu, rest] = /^(.*\/plugin\/dag-versions)(\/.*)?$/.exec(airflow.location.pathname) ?? [];
    if (menu === undefined) return;
    const here = location.pathname + location.search;
    const wanted = (rest ?? "") + airflow.location.search;
    const frameIsNew = frameElement.dataset.dagbump === undefined;
    frameElement.dataset.dagbump = "shown";
    if (frameIsNew && wanted !== here && wanted.startsWith(/^.*?\/dagbump\//.exec(here)[0])) location.replace(wanted);
    else airflow.history.replaceState(airflow.history.state, "", menu + here);
  }
  if (airflow) keepPlace();

  // A link in a table, such as one that sorts it or opens a row, does not move the page.
  const SCROLLED = "dagbump: scrolled";

  function scrollBack() {
    const scrolled = sessionStorage.getItem(SCROLLED);
    sessionStorage.removeItem(SCROLLED);
    if (scrolled !== null) scrollTo(0, Number(scrolled));
  }

  // ---- Asking the server.

  // Airflow 3.0 keeps its login where only scripts find it: in a cookie until its own page has loaded, then in the storage.
  let sendsStored = false;

  function storedLogin() {
    const stored = localStorage.getItem("token") ?? /(?:^|; )_token=([^;]+)/.exec(document.cookie)?.[1];
    return stored?.replace(/^"|"$/g, "");
  }

  const isWithoutLogin = (answer) => answer.status === 401 || answer.status === 403;

  async function ask(url, options = {}) {
    const send = (login) => fetch(url, {
      ...options,
      headers: { ...options.headers, ...(login ? { Authorization: `Bearer ${login}` } : {}) },
      credentials: "same-origin",
      redirect: "manual", // to a log-in page in front of Airflow
    });
    const answer = await send(sendsStored && storedLogin());
    if (sendsStored || !isWithoutLogin(answer) || !storedLogin()) return answer;
    const second = await send(storedLogin());
    if (isWithoutLogin(second)) return answer;
    sendsStored = true;
    return second;
  }

  const parse = async (answer) => new DOMParser().parseFromString(await answer.text(), "text/html");

  // ---- Refreshing. What cannot be refreshed stays as it is; the foot says since when and why.

  const REFRESHES = "dagbump: refreshes"; // kept for the browser's tab, from page to page
  let asking = null; // one request at a time
  let refused = false; // the login, which Airflow then deletes

  const isTab = () => document.querySelector("[role=search]") !== null; // neither an error nor the page without a login
  const isInDialog = () => document.querySelector("dialog[open]") !== null;

  function refresh() {
    if (!asking && !document.hidden && !isInDialog() && byId("refreshing").checked) refreshNow();
    else tellTimes(document);
  }

  async function refreshNow() {
    await asking;
    asking = takeAnswer().finally(() => { asking = null; });
    await asking;
  }

  async function takeAnswer() {
    const asked = new Date();
    const late = setTimeout(() => complain("The API server has not answered yet."), EVERY_MS);
    let answer, page;
    try {
      answer = await ask(location.href, { signal: AbortSignal.timeout(GIVE_UP_MS) });
      page = await parse(answer);
    } catch {
      complain("The API server does not answer.");
      return;
    } finally {
      clearTimeout(late);
      document.body.classList.remove("loading");
    }
    if (!isInDialog()) take(answer, page, asked); // which it would close
  }

  function take(answer, page, asked) {
    const isOurs = page.getElementById("live") !== null;
    const isStillRefused = refused && answer.status === 401;
    refused = isStillRefused || answer.status === 403;
    if (answer.ok && isOurs) show(page, asked);
    else if (isStillRefused) tellTimes(document); // the reason that is shown says more
    else if (isOurs && !isTab()) showWhole(page);
    else if (isOurs) complain(...saidBy(page));
    else if (answer.type === "opaqueredirect") complain("Something in front of Airflow asks for a login. Load the page again.");
    else complain(`The server answers ${answer.status}, but not with this page.`);
  }

  function saidBy(page) {
    const sentences = [...page.querySelectorAll("#answer, #answer + .advice")].map((part) => part.textContent);
    return [sentences.join(" "), page.querySelector("a.login")];
  }

  function show(page, asked) {
    if (isTab()) replaceLive(page.getElementById("live"));
    else showWhole(page);
    byId("refreshed").dateTime = asked.toISOString();
    complain("");
  }

  function showWhole(page) {
    if (byId("live").innerHTML === page.getElementById("live").innerHTML) return;
    document.title = page.title;
    document.body.replaceWith(page.body);
    begin();
  }

  function complain(why, link) {
    byId("since").textContent = why ? "Not refreshed since" : "Refreshed";
    const problem = byId("problem");
    if (problem.dataset.why !== why) { // else a screen reader would say it every time
      problem.dataset.why = why;
      problem.replaceChildren(why, ...(link ? [" ", document.importNode(link, true)] : []));
    }
    tellTimes(document);
  }

  // What is open stays open, what has the focus keeps it, and the page does not move.
  function replaceLive(next) {
    tellTimes(next);
    const live = byId("live");
    const open = [...live.querySelectorAll("details[open][id]")].map((details) => details.id);
    const scrolled = live.querySelector(".scroll")?.scrollLeft ?? 0;
    const focused = live.contains(document.activeElement) ? placeOf(document.activeElement) : null;
    for (const id of open) next.ownerDocument.getElementById(id)?.setAttribute("open", "");
    if (live.innerHTML === next.innerHTML) return;
    live.replaceWith(next);
    const scroll = next.querySelector(".scroll");
    if (scroll) scroll.scrollLeft = scrolled;
    if (focused) (next.querySelector(focused) ?? byId("content")).focus({ preventScroll: true });
  }

  function placeOf(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const row = element.closest("[id]");
    const within = row && row.id !== "live" ? `#${CSS.escape(row.id)} ` : "";
    const href = element.getAttribute("href");
    const which = href === null ? "" : `[href="${CSS.escape(href)}"]`;
    return `${within}${element.localName}${which}`;
  }

  // ---- Times: in the zone that the user has chosen in Airflow, in Airflow's format, and how long ago.

  function tellTimes(within) {
    const chosen = localStorage.getItem("timezone")?.replace(/^"|"$/g, "");
    const format = formatIn(chosen) ?? formatIn(undefined);
    for (const time of within.querySelectorAll("time")) {
      const when = new Date(time.dateTime);
      const [date, clock] = format.format(when).split(" ");
      time.title = time.dateTime;
      time.textContent = time.dataset.only === "clock" ? clock : `${date} ${clock}`;
      if (time.nextElementSibling?.className === "ago") time.nextElementSibling.textContent = ago(when);
    }
  }

  function formatIn(timeZone) {
    try {
      return new Intl.DateTimeFormat("sv", { timeZone, dateStyle: "short", timeStyle: "medium" }); // 2026-11-28 14:03:22
    } catch {
      return null; // no such zone
    }
  }

  const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];

  function ago(when) {
    const seconds = (when - Date.now()) / 1000;
    const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
    return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(Math.trunc(seconds / size), unit);
  }

  // ---- Links: Airflow's leave its frame, which a link in it may not do by itself, and neither may a new tab.

  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button !== 0) return;
    if (link.classList.contains("login")) link.href = backFrom(link.href);
    const newTab = event.ctrlKey || event.metaKey || event.shiftKey;
    if (airflow && (newTab || link.dataset.airflow !== undefined)) {
      event.preventDefault();
      leaveFrame(link.href, newTab);
    } else if (!newTab && link.dataset.airflow === undefined && !link.getAttribute("href").startsWith("#")) {
      if (link.closest("table")) sessionStorage.setItem(SCROLLED, scrollY);
      document.body.classList.add("loading");
    }
  });

  function leaveFrame(url, newTab) {
    const link = airflow.document.createElement("a");
    link.href = url;
    if (newTab) Object.assign(link, { target: "_blank", rel: "noopener" });
    airflow.document.body.append(link);
    link.click();
    link.remove();
  }

  // The log-in page leads back to where the user is: to Airflow's address, where the page is in its frame.
  function backFrom(loginPage) {
    const url = new URL(loginPage);
    const { pathname, search } = (airflow ?? window).location;
    url.searchParams.set("next", pathname + search);
    return url.href;
  }

  addEventListener("submit", () => document.body.classList.add("loading"));
  addEventListener("formdata", ({ formData }) => { // an address without empty parameters
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
  addEventListener("pageshow", () => document.body.classList.remove("loading")); // by Back, from the browser's memory

  // ---- The button and its dialog.

  addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    const dialog = button?.closest("dialog");
    if (button?.dataset.dialog) byId(button.dataset.dialog).showModal();
    else if (button?.dataset.close !== undefined) dialog.close();
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

  // Once it has been used, the button is gone; a page that is refreshed brings it back.
  addEventListener("close", ({ target: dialog }) => {
    if (dialog.dataset?.done === undefined) return;
    document.querySelector(`[data-dialog="${dialog.id}"]`)?.remove();
    dialog.remove();
    byId("content").focus({ preventScroll: true });
    refreshNow();
  }, true);

  // Ask again if the server says after how many seconds. If it was busy, it has not begun. If it has lost its database, its
  // transaction was rolled back; or has just committed, and there is nothing left to move.
  async function askInTurn(dialog, options) {
    const progress = dialog.querySelector(".progress");
    const saidBefore = progress.textContent;
    try {
      for (const end = Date.now() + GIVE_UP_MS; ;) {
        const answer = await ask(dialog.dataset.url, options);
        const seconds = answer.status === 503 && Number(answer.headers.get("Retry-After"));
        if (!seconds || !dialog.open || Date.now() > end) return answer;
        progress.textContent = `${saidBefore} The API server is busy, or has lost its database. It is asked again in ${seconds} seconds.`;
        await new Promise((done) => { setTimeout(done, 1_000 * seconds); });
      }
    } finally {
      progress.textContent = saidBefore;
    }
  }

  async function bump(dialog, button) {
    const batches = JSON.parse(dialog.dataset.batches);
    const progress = dialog.querySelector(".progress");
    for (const each of dialog.querySelectorAll("button")) each.disabled = true;
    button.textContent = "Moving…";
    dialog.dataset.done = "";
    try {
      let answer, what, soFar;
      for (const dag_run_ids of batches) {
        if (!dialog.open) break; // by Escape
        answer = await askInTurn(dialog, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-Dagbump-Token": dialog.dataset.token },
          body: JSON.stringify({ dag_run_ids, so_far: soFar }),
        });
        const said = await parse(answer);
        what = answer.ok ? said.body : said.getElementById("live");
        if (!answer.ok) break;
        const title = said.querySelector("[data-so-far]");
        soFar = JSON.parse(title.dataset.soFar);
        progress.textContent = title.textContent;
      }
      what?.querySelector("#answer")?.removeAttribute("id"); // the page behind the dialog has one
      // After an error, what the batches before it have done stays, and is said.
      if (soFar) what?.querySelector("[data-unchanged]")?.remove();
      if (what) dialog.replaceChildren(...(answer.ok || !soFar ? [] : [progress]), ...what.childNodes);
      else tellProblem(dialog, `The server answers ${answer.status}, but not with this page.`, progress);
    } catch {
      tellProblem(dialog, "The API server does not answer.", progress);
    }
    if (!dialog.querySelector("[data-close]")) {
      dialog.insertAdjacentHTML("beforeend", '<p class="buttons"><button type="button" data-close>Close</button></p>');
    }
    if (dialog.open) dialog.querySelector("[data-close]").focus();
    else refreshNow(); // what the last batch has done
  }

  function tellProblem(dialog, problem, progress) {
    dialog.innerHTML = '<p class="problem" role="alert"></p>';
    dialog.firstChild.textContent = `${problem} The history tells what it has done.`;
    dialog.prepend(progress);
  }

  // ---- The beginning.

  function begin() {
    const refreshing = byId("refreshing");
    refreshing.checked = sessionStorage.getItem(REFRESHES) !== "no";
    refreshing.addEventListener("change", () => sessionStorage.setItem(REFRESHES, refreshing.checked ? "yes" : "no"));
    tellTimes(document);
  }

  addEventListener("DOMContentLoaded", () => {
    begin();
    scrollBack();
    if (!byId("signing-in") || !storedLogin()) return;
    document.body.classList.add("loading");
    refreshNow();
  });
  setInterval(refresh, EVERY_MS);
  addEventListener("visibilitychange", refresh);
})();

"use strict";
// Steps through the stories. Each picture holds only what is not as in the picture before it.
const data = JSON.parse(document.getElementById("data").textContent);
const SETS = { none: "no watched set: one call, on one socket, at a time",
  select: "the watched set: three sets of bits, in the program's memory, as passed to select() " +
    "(✓: still set when it returned; it cleared the others)",
  poll: "the watched set: an array, in the program's memory",
  epoll: "the watched set: a list, in the kernel" };
const STATES = { asleep: "☾ asleep in", spins: "↻ spins", calls: "▶ about to call",
  returned: "▶ running", woke: "☀ woke" };
const AROUND = 7; // lines of source before and after the one that is marked
for (const story of data.stories)
  for (const column of story.columns) {
    let last = {};
    column.pictures = column.pictures.map((changed) => (last = { ...last, ...changed }));
  }

const $ = (id) => document.getElementById(id);
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== false && value !== "") made.setAttribute(name, value);
  made.append(...children.flat().filter((child) => child !== "" && child != null));
  return made;
}
const number = (value) => value.toLocaleString("en");
const letters = (text) => text || "–";
const bytes = (count) => `${number(count)} byte${count === 1 ? "" : "s"}`;

let story = data.stories[0], step = 0, chosen = 0, timer = 0;
const opened = new Set(); // the columns whose stack is shown

// ---- One column: one server at one step

function column(shown, index) {
  const picture = shown.pictures[step];
  const idle = picture.moves === false;
  return el("section", { class: `column ${picture.state}${idle ? " still" : ""}${
    visible(shown, index) ? "" : " away"}`, "aria-label": name(shown) },
    el("h3", {}, name(shown)), /^\d/.test(shown.id) ? "" : el("p", { class: "soft" }, shown.title),
    el("p", { class: "state" }, el("b", {}, STATES[picture.state]), ` ${picture.call}`,
      picture.result && picture.state !== "spins" ? ` = ${picture.result}` : ""),
    el("p", { class: "say" }, picture.say, idle ? " (Nothing new here.)" : ""),
    source(shown, picture), kernel(picture), watched(picture), people(picture));
}

const name = (shown) => /^\d/.test(shown.id) ? `Stage ${shown.id}: ${shown.title}` : shown.id;

function source(shown, picture) {
  const lines = data.sources[shown.source].lines;
  const first = Math.max(1, Math.min(picture.line - AROUND, lines.length - 2 * AROUND));
  const code = el("pre", { tabindex: 0, role: "group", "aria-label": "source around that line" });
  const near = lines.slice(first - 1, first + 2 * AROUND);
  const indent = Math.min(...near.filter(Boolean).map((line) => line.search(/\S/)));
  for (const [index, line] of picture.line ? near.entries() : []) {
    const at = first + index;
    const text = `${String(at).padStart(4)}  ${line.slice(indent)}\n`;
    code.append(at === picture.line ? el("mark", {}, `→${text}`) : ` ${text}`);
  }
  const stack = el("details", { class: "stack" },
    el("summary", {}, `called from (${picture.stack.length})`),
    el("ol", {}, picture.stack.map((frame) => el("li", {}, el("code", {}, frame)))),
    `server.cpp has the sha256 ${data.sources[shown.source].sha256.slice(0, 8)}…`);
  stack.open = opened.has(shown.id);
  stack.ontoggle = () => stack.open ? opened.add(shown.id) : opened.delete(shown.id);
  return el("figure", {}, el("figcaption", {}, `${shown.file}, line ${picture.line}`),
    picture.line ? code : el("p", {}, "There is no addr2line here (binutils): only the call."),
    stack);
}

// Bytes, on a logarithmic scale: six have to be seen beside a hundred thousand.
function bar(count, kind, label) {
  const width = count ? 8 + 92 * Math.log2(count + 1) / Math.log2(story.most + 1) : 0;
  return el("span", { class: `bar ${kind}`, title: label },
    el("i", { style: `width: ${width.toFixed(0)}%` }),
    el("span", {}, count ? number(count) : "0"));
}

function kernel(picture) {
  const rows = picture.sockets.filter((row) => row[2] !== "p").map((row) => {
    const [who, fd, kind, into, out, peeked, ready, outbox] = row;
    if (kind === "l")
      return el("tr", {}, el("th", { scope: "row" }, `${who} (fd ${fd})`),
        el("td", { colspan: 2 }, el("span", { class: "queue", "aria-hidden": "true" },
          "●".repeat(Math.min(into, 12)) || "○"),
          ` accept queue: ${into} of ${number(out)}`), el("td", {}, letters(ready)), el("td"));
    if (kind === "n")
      return el("tr", { class: "unaccepted" }, el("th", { scope: "row" }, who),
        el("td", {}, bar(into, "in", "receive queue")),
        el("td", { colspan: 3 }, "connected by the kernel; nobody has accepted it"));
    const watchedFor = (picture.watched.find((entry) => entry[0] === fd) || [])[2] || "";
    const why = picture.kind === "none" || !watchedFor ? "" : watchedFor.includes("w")
      ? outbox ? "so watched for writing" : "yet watched for writing"
      : outbox ? "not watched for writing" + (picture.state === "asleep" ? "" : " yet") : "";
    return el("tr", {}, el("th", { scope: "row" }, `${who} (fd ${fd})`),
      el("td", {}, bar(into, "in", "receive queue"),
        peeked ? el("code", { class: "peek" }, peeked) : ""),
      el("td", {}, bar(out, "out", "send queue")), el("td", {}, letters(ready)),
      el("td", {}, bar(outbox, "box", "to be sent"), why ? el("small", {}, why) : ""));
  });
  return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "sockets" },
    el("table", {}, el("thead", {}, el("tr", {}, ["Socket", "Receive queue (kernel)",
      "Send queue (kernel)", "Ready now", "To be sent (program)"].map((text) =>
      el("th", { scope: "col" }, text)))), el("tbody", {}, rows)));
}

function watched(picture) {
  const entries = picture.watched;
  if (picture.kind === "none") return el("p", { class: "place" }, SETS.none);
  const truth = entries.filter((entry) => entry[4]).map((entry) => `${entry[1]}:${entry[4]}`);
  return el("div", { class: `set ${picture.kind === "epoll" ? "inside" : "ours"}` },
    el("p", { class: "place" }, SETS[picture.kind]),
    picture.kind === "select" ? bits(entries) : list(picture.kind, entries),
    el("p", { class: "ready" }, el("b", {}, "Ready list: "), picture.told.join(", ") || "–",
      el("b", {}, " · watched and ready now: "), truth.join(", ") || "–"),
    el("p", { class: "cost" }, picture.cost));
}

function bits(entries) {
  const highest = Math.max(...entries.map((entry) => entry[0]));
  const all = [...Array(highest + 1).keys()];
  const row = (title, way) => el("tr", {}, el("th", { scope: "row" }, title), all.map((fd) => {
    const [, , wanted, told] = entries.find((entry) => entry[0] === fd) || [0, 0, "", ""];
    return el("td", { class: told.includes(way) ? "told" : "" },
      !wanted.includes(way) ? "·" : told.includes(way) ? "1✓" : "1");
  }));
  return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "the three sets" },
    el("table", { class: "bits" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "bit"),
      all.map((fd) => el("th", { scope: "col" }, fd)))),
    el("tbody", {}, row("reads", "r"), row("writes", "w"), row("exceptions", "x"))));
}

function list(kind, entries) {
  const poll = kind === "poll";
  return el("ol", { class: "entries" }, entries.map(([fd, who, wanted, told, ready, edge]) =>
    el("li", { class: told ? "told" : "" }, el("b", {}, fd), ` ${who}`,
      el("span", {}, `${poll ? "events" : "for"} ${wanted}${edge ? ", edge-triggered" : ""}`),
      el("span", {}, `${poll ? "revents" : edge ? "last told" : "told"} ${letters(told)}${
        told ? " ✓" : ""}`),
      edge && ready ? el("span", {}, `ready now: ${ready}`) : "")));
}

function people(picture) {
  return el("ul", { class: "people" }, picture.people.map(([who, sent, got, ended, since, unread]) =>
    el("li", { class: since >= 0 ? "waits" : "" }, el("b", {}, `Client ${who}`),
      ` sent ${bytes(sent)}, got ${bytes(got)}${unread ? `, ${number(unread)} more in its receive queue` : ""}${
        ended ? `; ${ended}` : ""}`,
      since >= 0 ? el("strong", {}, ` waits since step ${since}`) : "")));
}

// ---- The step, and how to go to another

// Where there is room, all servers but those that were put away; on a phone, one.
const narrow = matchMedia("(max-width: 50rem)"), away = new Set();
const visible = (shown, index) => narrow.matches ? index === chosen : !away.has(shown.id);
const focusable = () => [...$("columns").querySelectorAll("summary, [tabindex]")];

function show() {
  const { text, part, parts } = story.steps[step];
  $("title").textContent = story.title;
  document.title = `${story.title} – The kernel behind glass`;
  $("about").textContent = story.about;
  $("step").textContent = text + (parts > 1 ? ` (${part} of ${parts})` : "");
  $("count").textContent = `step ${step} of ${story.steps.length - 1}`;
  const range = $("range");
  range.max = story.steps.length - 1;
  range.value = step;
  range.setAttribute("aria-valuetext", `${step}: ${text}`);
  const focused = focusable().indexOf(document.activeElement);
  $("columns").replaceChildren(...story.columns.map(column));
  if (focused >= 0) focusable()[focused]?.focus({ preventScroll: true });
  $("tabs").replaceChildren(...story.columns.map((shown, index) => {
    const tab = el("button", { type: "button", "aria-pressed": String(visible(shown, index)) },
      /^\d/.test(shown.id) ? `Stage ${shown.id}` : shown.id);
    tab.onclick = () => {
      if (narrow.matches) chosen = index;
      else if (!away.delete(shown.id)) away.add(shown.id);
      show();
      $("tabs").children[index].focus();
    };
    return tab;
  }));
  for (const link of document.querySelectorAll("nav a"))
    if (link.hash.slice(1).split("/")[0] === story.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  $("said").textContent = `${$("step").textContent} ` + story.columns.filter((shown, index) =>
    shown.pictures[step].moves !== false && visible(shown, index)).map((shown) =>
    `${name(shown)}. ${shown.pictures[step].say}`).join(" ");
}

function go(to) {
  step = Math.max(0, Math.min(story.steps.length - 1, to));
  history.replaceState(null, "", `#${story.name}/${step}`);
  show();
}

function follow() {
  const [wanted, at] = location.hash.slice(1).split("/");
  story = data.stories.find((each) => each.name === wanted) || story;
  chosen = Math.min(chosen, story.columns.length - 1);
  go(parseInt(at, 10) || 0);
  if (wanted) $("title").scrollIntoView();
}

function play() {
  const on = !timer;
  if (on && step === story.steps.length - 1) go(0);
  clearInterval(timer);
  timer = on ? setInterval(() => step < story.steps.length - 1 ? go(step + 1) : play(), 1500) : 0;
  $("said").setAttribute("aria-live", on ? "off" : "polite");
  $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
}

$("first").onclick = () => go(0);
$("back").onclick = () => go(step - 1);
$("next").onclick = () => go(step + 1);
$("play").onclick = play;
$("range").oninput = () => go(Number($("range").value));
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, pre, .scroll"))
    return;
  const to = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0,
    End: story.steps.length - 1 }[event.key];
  if (to !== undefined) { event.preventDefault(); go(to); }
});
addEventListener("hashchange", follow);
narrow.addEventListener("change", show);
for (const item of document.querySelectorAll("#all [id]")) item.removeAttribute("id");
$("player").hidden = false;
follow();

// The page of a memory server. Whatever a model, a memory or a person says becomes text of DOM nodes, never markup.

const $ = (id) => document.getElementById(id);
const TABS = ["chat", "memories", "documents", "trace", "settings", "admin"];
const UNDO_MS = 8000, PAGE = 20, MOST_DIFFED = 600, MOST_MARKED_UP = 30000, DEEPEST = 8, MOST_FETCHED = 10;

let session = null; // what /session tells; user null: nobody is logged in

/** An element: properties (data, aria and others that are none, as attributes; on...: listeners) and children. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const button = (text, onclick, className = "quiet") => el("button", { type: "button", className, onclick }, text);
const hint = (...said) => el("span", { className: "hint" }, ...said);
const may = (scope) => session.scopes.includes(scope);
const has = (route) => session.routes.includes(route);
const when = (time) => (time ? new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "never");
const by = (source) => ({ user: "you", assistant: "the assistant", document: "a document" })[source] ?? source;
const say = (text) => { $("status").textContent = text; };

function fail(error) {
  if (error.name === "AbortError") return;
  $("alert").firstElementChild.textContent = error.message;
  $("alert").hidden = false;
  $("alert").scrollIntoView({ block: "nearest" });
}

/** Run what a person asked for; what goes wrong is shown, and a button waits meanwhile. */
async function attempt(work, control) {
  $("alert").hidden = true;
  if (control) control.disabled = true;
  try {
    return await work();
  } catch (error) {
    fail(error);
  } finally {
    if (control) control.disabled = false;
  }
}

// --- the server

const headers = () => ({ "content-type": "application/json", ...(session?.token && { "x-csrf-token": session.token }) });

async function send(method, path, body, options = {}) {
  const data = body === undefined || body instanceof Blob ? body : JSON.stringify(body);
  const response = await fetch(path, { method, body: data, ...options, headers: { ...headers(), ...options.headers } });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  if (response.status === 401 && session?.user) logIn("The session is over; log in again.");
  const error = new Error(told.error?.message ?? `the server answered ${response.status}`);
  throw Object.assign(error, { status: response.status });
}

const call = async (...request) => (await send(...request)).json();
const itemPath = (id) => `v1/memory/items/${encodeURIComponent(id)}`;

/** The events of a stream as {event, data}. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let left = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (left + value).replaceAll("\r\n", "\n").split("\n\n");
    left = parts.pop();
    for (const part of parts) {
      const fields = { event: "message", data: "" };
      for (const line of part.split("\n")) {
        const [, name, text] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") fields.data += text;
        else if (name === "event") fields.event = text;
      }
      if (fields.data && fields.data !== "[DONE]") yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

// --- logging in and out

const place = () => new URL(".", location.href).pathname;

async function begin() {
  const token = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (token) history.replaceState(null, "", place());
  let why = "";
  try {
    session = token ? await call("POST", "session", { token, path: place() }) : await call("GET", "session");
  } catch (error) {
    why = error.message;
    session = await call("GET", "session").catch(() => null);
  }
  if (session?.user) enter();
  else logIn(why);
}

function logIn(why = "") {
  session = null;
  stop();
  newChat();
  $("dialog").close();
  $("app").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = why;
  $("login-key").focus();
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("login-key").value;
  $("login-key").value = "";
  try {
    session = await call("POST", "session", { key, path: place() });
    enter();
  } catch (error) {
    $("login-error").textContent = error.message;
    $("login-key").focus();
  }
});

function enter() {
  $("login").hidden = true;
  $("app").hidden = false;
  $("who").textContent = session.user;
  const reads = may("memory:read") && session.memory !== "off";
  const shown = {
    chat: may("chat"), memories: reads, documents: reads && has("/v1/memory/documents"), trace: reads && has("/v1/memory/trace"),
    settings: true, admin: may("admin"),
  };
  for (const name of TABS) $(`tab-${name}`).hidden = !shown[name];
  $("chat-model").textContent = session.memory === "off" ? `${session.model}, no memory` : `${session.model}, memory ${session.memory}`;
  showTab(location.hash.slice(1));
  showMemoryUse();
}

$("log-out").addEventListener("click", (event) => attempt(async () => {
  await flush();
  await call("DELETE", `session?path=${encodeURIComponent(place())}`);
  logIn();
}, event.target));

// --- tabs

const OPENED = { memories: () => findMemories(), documents: listDocuments, settings: showSettings, admin: showAdmin, trace: showTrace };

function showTab(name) {
  const open = TABS.filter((tab) => !$(`tab-${tab}`).hidden);
  const chosen = open.includes(name) ? name : open[0];
  for (const tab of TABS) {
    const control = $(`tab-${tab}`), isChosen = tab === chosen;
    control.setAttribute("aria-selected", isChosen);
    control.tabIndex = isChosen ? 0 : -1;
    $(tab).hidden = !isChosen;
  }
  $(`tab-${chosen}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  document.title = `ltm · ${$(`tab-${chosen}`).textContent}`;
  $("alert").hidden = true;
  if (OPENED[chosen]) attempt(OPENED[chosen]);
  else $("question").focus({ preventScroll: true });
}

$("tabs").addEventListener("click", (event) => {
  const name = event.target.closest("[role=tab]")?.id.slice(4);
  if (name) location.hash = name;
});
$("tabs").addEventListener("keydown", (event) => {
  const open = [...$("tabs").children].filter((tab) => !tab.hidden);
  const at = open.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: open.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const tab = open.at(to % open.length);
  location.hash = tab.id.slice(4);
  tab.focus();
});
addEventListener("hashchange", () => {
  if (/^#token=/.test(location.hash)) begin();
  else if (session?.user) showTab(location.hash.slice(1));
});
$("alert-close").addEventListener("click", () => { $("alert").hidden = true; });
document.querySelector(".skip").addEventListener("click", (event) => { // the address holds the tab
  event.preventDefault();
  ($("app").hidden ? $("login-key") : $("main")).focus();
});

function openDialog(title, ...content) {
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...content);
  if (!$("dialog").open) $("dialog").showModal();
}
$("dialog-close").addEventListener("click", () => $("dialog").close());
$("dialog").addEventListener("click", (event) => { if (event.target === $("dialog")) $("dialog").close(); });

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not under plain http
    const held = el("textarea", { value: text, className: "hidden" });
    ($("dialog").open ? $("dialog") : document.body).append(held);
    held.select();
    document.execCommand("copy");
    held.remove();
  }
  say("copied");
}

// --- markdown, as nodes

const INLINE = /(?<ticks>`{1,3})(?<code>[^`]{1,2000})\k<ticks>|(?<bold>\*\*|__)(?=\S)(?<strong>[^\n]{1,500}?)(?<=\S)\k<bold>|(?<![\w*])(?<slant>[*_])(?=[^\s*_])(?<em>[^*_\n]{1,500})(?<=\S)\k<slant>(?!\w)|~~(?<gone>[^~\n]{1,500})~~|!?\[(?<label>[^\]\n]{0,300})\]\((?<link>[^()\s]{0,2000}(?:\([^()\s]{0,200}\)[^()\s]{0,200}){0,3})[^)\n]{0,200}\)|(?<bare>https?:\/\/[^\s<>()"'`]+[^\s<>()"'`.,;:!?])/;

function safeLink(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function inline(text) {
  const nodes = [];
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    const { code, strong, em, gone, label, link, bare } = found.groups;
    nodes.push(text.slice(0, found.index));
    if (code) nodes.push(el("code", {}, code.trim()));
    else if (strong) nodes.push(el("strong", {}, ...inline(strong)));
    else if (em) nodes.push(el("em", {}, ...inline(em)));
    else if (gone) nodes.push(el("s", {}, gone));
    else {
      const href = safeLink(bare ?? link); // pictures are links, too: none is loaded
      const shown = bare ?? (label || link);
      nodes.push(href ? el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, shown) : found[0]);
    }
  }
  return [...nodes, text].filter((node) => node !== "");
}

const lines = (text) => text.split("\n").flatMap((line, number) => [...(number ? [el("br")] : []), ...inline(line)]);
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));

const BLOCKS = [ // [what a block is, how its node is made]
  [/^ {0,3}(```+|~~~+)[^\n]*\n([^]*?)(?:\n {0,3}\1[^\n]*|$)/, ([, , code]) => el("pre", { tabIndex: 0 }, el("code", {}, code))],
  [/^ {0,3}(#{1,6}) +([^\n]+?)(?: +#+)?(?=\n|$)/, ([, marks, text]) => el(`h${Math.min(5, marks.length + 2)}`, {}, ...inline(text))],
  [/^ {0,3}(?:[-*_] *){3,}(?=\n|$)/, () => el("hr")],
  [/^(?: {0,3}>[^\n]*(?:\n|$))+/, ([text], depth) => el("blockquote", {}, ...markdown(text.replace(/^ {0,3}> ?/gm, ""), depth + 1))],
  [/^[^\n]*\|[^\n]*\n *\|?(?: *:?-+:? *\|)+(?: *:?-+:?)? *(?:\n[^\n]*\|[^\n]*)*/, table],
  [/^ {0,3}(?:[-*+]|\d{1,9}[.)]) +[^\n]*(?:\n(?: {0,3}(?:[-*+]|\d{1,9}[.)]) +| {2,}|\n {2,})[^\n]*)*/, list],
];

function table([text]) {
  const [head, , ...rows] = text.split("\n");
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...cell)));
  return el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...rows.filter((line) => line.trim()).map((line) => row(line, "td"))));
}

function list([text], depth) {
  const start = /^ *(\d{1,9})[.)]/.exec(text)?.[1];
  const items = text.split(/\n(?= ?(?:[-*+]|\d{1,9}[.)]) )/).map((part) => {
    const body = part.replace(/^ *(?:[-*+]|\d{1,9}[.)]) +/, "").replace(/^ {1,4}/gm, "");
    const [head] = body.split(/\n(?=[-*+] |\d{1,9}[.)] |\n)/);
    return el("li", {}, ...lines(head), ...markdown(body.slice(head.length), depth + 1));
  });
  return start ? el("ol", { start: Number(start) }, ...items) : el("ul", {}, ...items);
}

/** The nodes of a text in markdown; depth: of quotes and lists around it. */
function markdown(text, depth = 0) {
  if (text.length > MOST_MARKED_UP || depth > DEEPEST) return [el("p", {}, text)];
  const nodes = [];
  for (let left = text.replace(/\r\n?/g, "\n").replace(/^\n+/, ""); left; left = left.replace(/^\s*\n/, "").replace(/^\n+/, "")) {
    const block = BLOCKS.map(([pattern, make]) => [pattern.exec(left), make]).find(([found]) => found);
    if (block) {
      nodes.push(block[1](block[0], depth));
      left = left.slice(block[0][0].length);
      continue;
    }
    const [paragraph] = /^[^\n]*(?:\n(?! *\n| {0,3}(?:#{1,6} |```|~~~|>|[-*+] |\d{1,9}[.)] ))[^\n]+)*/.exec(left);
    nodes.push(el("p", {}, ...lines(paragraph)));
    left = left.slice(paragraph.length);
  }
  return nodes;
}

// --- chat

let messages = [], chatId = "", stopping = null, traced = null;

const usesMemory = () => !$("temporary").checked && localStorage.getItem("ltm-memory") !== "off" && session.memory !== "off";

function newChat() {
  stop();
  messages = [];
  traced = null;
  chatId = `page-${Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16)).join("")}`;
  $("turns").replaceChildren();
  $("chat-empty").hidden = false;
}

function stop() { stopping?.abort(); }

function showMemoryUse() {
  const isOff = localStorage.getItem("ltm-memory") === "off";
  $("chat-off").hidden = usesMemory() || session.memory === "off";
  $("chat-off").textContent = `${isOff ? "Memory is off in this browser" : "Temporary chat"}: nothing of it is remembered, and no memory is used.`;
  $("temporary").parentElement.hidden = session.memory === "off";
}

$("temporary").addEventListener("change", () => { // else what was said before would be taken in, or used, after all
  newChat();
  showMemoryUse();
  say("a new chat began");
});
$("new-chat").addEventListener("click", () => { newChat(); $("question").focus(); });
$("stop").addEventListener("click", stop);
addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("dialog").open) stop(); });

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("question").addEventListener("input", fitQuestion);
function fitQuestion() {
  const box = $("question");
  box.rows = Math.min(10, Math.max(1, box.value.split("\n").length, Math.ceil(box.value.length / (box.clientWidth / 9))));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || stopping) return;
  $("question").value = "";
  fitQuestion();
  messages.push({ role: "user", content: text });
  $("chat-empty").hidden = true;
  $("turns").append(el("div", { className: "turn user" }, text));
  answer();
});

const nearEnd = () => innerHeight + scrollY > document.documentElement.scrollHeight - 160;
const toEnd = () => scrollTo(0, document.documentElement.scrollHeight);

/** Ask for what comes after the messages; options: of the request. */
async function answer(options = {}) {
  const own = { id: chatId, before: messages.slice() };
  const words = el("div", { className: "words" }, el("p", { className: "waiting" }, "thinking"));
  const turn = el("div", { className: "turn assistant" }, words);
  const under = el("div", { className: "under" });
  $("turns").append(turn);
  $("turns").setAttribute("aria-busy", "true");
  $("turns").querySelectorAll(".only-last").forEach((one) => one.remove());
  toEnd();
  stopping = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const made = { text: "", id: null, memory: null, usage: null, reason: null };
  let drawing = 0;
  const draw = () => {
    drawing = 0;
    const follows = nearEnd();
    words.replaceChildren(...markdown(made.text));
    if (follows) toEnd();
  };
  try {
    await flush();
    for await (const chunk of completion(own, options)) {
      take(chunk, made);
      if (made.text) drawing ||= requestAnimationFrame(draw);
    }
  } catch (error) {
    if (error.name !== "AbortError") under.append(el("span", { className: "error", role: "alert" }, error.message));
    else under.append(hint("stopped"));
  }
  cancelAnimationFrame(drawing);
  stopping = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  $("turns").removeAttribute("aria-busy");
  if (own.id !== chatId) return; // another chat began
  if (made.text) {
    draw();
    messages.push({ role: "assistant", content: made.text });
  } else words.replaceChildren();
  finish(turn, under, made, own.before);
  if (nearEnd() || !made.text) toEnd();
}

async function* completion(own, options) {
  const reads = usesMemory();
  const memory = { session: own.id, read: reads && may("memory:read"), write: reads && may("memory:write") };
  const body = { model: session.model, messages: own.before, stream: true, stream_options: { include_usage: true }, memory, ...options };
  const response = await send("POST", "v1/chat/completions", body, { signal: stopping.signal });
  for await (const { data } of eventsOf(response)) yield data;
}

function take(chunk, made) {
  if (chunk.error) throw new Error(chunk.error.message);
  made.id = chunk.id ?? made.id;
  made.memory = chunk.memory ?? made.memory;
  made.usage = chunk.usage ?? made.usage;
  made.text += chunk.choices?.[0]?.delta?.content ?? "";
  made.reason = chunk.choices?.[0]?.finish_reason ?? made.reason;
}

/** What stands under an answer: the memories it used, what can be done, what it took. */
function finish(turn, under, made, before) {
  const used = made.memory?.used ?? [];
  if (used.length) turn.append(el("ul", { className: "chips" }, el("li", {}, "used"), ...used.map(chip)));
  const again = button(made.text ? "Regenerate" : "Try again", () => {
    if (stopping) return;
    if (made.text) messages.pop();
    turn.remove();
    answer(made.text ? { temperature: 0.8, seed: crypto.getRandomValues(new Uint32Array(1))[0] } : {});
  });
  again.classList.add("only-last");
  const isTraced = made.text && used.length && !$("tab-trace").hidden;
  const tracing = () => {
    traced = { messages: [...before, { role: "assistant", content: made.text }], items: used.slice(0, 8).map((use) => use.id) };
    location.hash = "trace";
  };
  under.prepend(...[made.text ? button("Copy", () => copy(made.text)) : "", again, isTraced ? button("Trace", tracing) : ""]);
  if (made.memory?.written?.length) under.append(hint("remembered"));
  if (made.reason === "length") under.append(hint("cut at the most tokens"));
  if (made.usage) under.append(hint(`${made.usage.completion_tokens} tokens`));
  turn.append(under);
}

function chip(use) {
  const label = el("span", {}, "…");
  const made = el("button", { type: "button", className: "chip", onclick: () => openItem(use.id) }, label);
  made.title = `${by(use.source)}, ${when(use.t)}, score ${use.score}`;
  call("GET", itemPath(use.id)).then(
    (item) => { label.textContent = item.text.slice(0, 90); },
    () => { label.textContent = "not there any more"; made.disabled = true; },
  );
  return el("li", {}, made);
}

// --- memories

let found = { after: null, run: 0 };

/** A memory as a card, with all that can be done with it. */
function card(item) {
  const text = el("div", { className: "text" }, item.text);
  const said = `${when(item.time)} · ${by(item.source)}`;
  const about = el("div", { className: "about" }, hint(item.score === undefined ? said : `${said} · score ${item.score.toFixed(2)}`));
  const made = el("div", { className: "item card" }, text, about);
  const act = (name, work) => about.append(button(name, (event) => attempt(() => work(event), event.target)));
  if (may("memory:write") && item.source !== "document") act("Correct", () => correct(item, made));
  act("History", () => openHistory(item.id));
  act("Source", () => openItem(item.id));
  if (may("memory:write")) act("Delete", () => deleteLater(itemPath(item.id), item.text, made));
  return made;
}

function correct(item, made) {
  const text = el("textarea", { rows: Math.min(8, 1 + Math.ceil(item.text.length / 60)), value: item.text, required: true, ariaLabel: "What holds now" });
  const reason = el("input", { placeholder: "why (may be left empty)", ariaLabel: "Why it is corrected" });
  const back = () => { form.replaceWith(made); made.querySelector("button").focus(); };
  const save = async () => {
    const version = await call("PATCH", itemPath(item.id), { text: text.value, reason: reason.value || null, content_sha256: item.content_sha256 });
    const fresh = card(version);
    form.replaceWith(fresh);
    fresh.querySelector("button").focus();
    say("corrected");
  };
  const form = el("form", {
    className: "item card stack",
    onsubmit: (event) => { event.preventDefault(); attempt(save, event.submitter); },
    onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); event.preventDefault(); back(); } },
  }, text, reason, el("div", { className: "bar" }, el("button", { className: "main" }, "Put in its place"), button("Cancel", back, "")));
  made.replaceWith(form);
  text.focus();
}

const waiting = new Map(); // path of what is deleted unless that is undone: its timer

function deleteLater(path, text, made) {
  const undo = button("Undo", () => {
    clearTimeout(waiting.get(path));
    waiting.delete(path);
    gone.replaceWith(made);
    made.querySelector("button").focus();
    say("kept");
  }, "");
  const gone = el("div", { className: "item card gone" }, el("p", {}, `Deleted: ${text.slice(0, 60)}`), undo);
  waiting.set(path, setTimeout(() => attempt(() => deleteNow(path).then(() => {
    undo.remove();
    gone.firstChild.textContent = "Deleted, from the disk, too.";
  })), UNDO_MS));
  made.replaceWith(gone);
  undo.focus();
}

function deleteNow(path) {
  clearTimeout(waiting.get(path));
  waiting.delete(path);
  return send("DELETE", path, undefined, { keepalive: true }).catch((error) => { if (error.status !== 404) throw error; });
}

const flush = () => Promise.all([...waiting.keys()].map(deleteNow));
addEventListener("pagehide", flush);

/** The first page of what the form asks for, or (more) the next one. */
async function findMemories(more = false) {
  const run = ++found.run, query = $("search-query").value.trim();
  const [since, until, source] = ["since", "until", "source"].map((name) => $(`search-${name}`).value || null);
  await flush();
  const shown = [];
  let listed = { has_more: false, last_id: more ? found.after : null };
  if (query) shown.push(...(await call("POST", "v1/memory/search", { query, k: 50, since, until })).data.filter(isFrom(source)));
  else for (let fetched = 0; !fetched || (listed.has_more && shown.length < PAGE && fetched < MOST_FETCHED); fetched++) {
    listed = await call("GET", `v1/memory/items?order=desc&limit=${PAGE}${listed.last_id ? `&after=${encodeURIComponent(listed.last_id)}` : ""}`);
    shown.push(...listed.data.filter(isFrom(source)).filter((item) => (!since || item.time >= since) && (!until || item.time < until)));
  }
  if (run !== found.run) return; // asked anew meanwhile
  found.after = listed.last_id;
  if (!more) $("memory-list").replaceChildren();
  const cards = shown.map((item) => el("li", {}, card(item)));
  $("memory-list").append(...cards);
  $("memory-more").hidden = !listed.has_more;
  if (more) cards[0]?.querySelector("button").focus();
  const count = $("memory-list").children.length, isFiltered = query || since || until || source;
  $("memories-count").textContent = count ? `${count} shown${listed.has_more ? ", there are more" : ""}, ${query ? "best" : "newest"} first`
    : listed.has_more ? "none among the newest; look further by More" : isFiltered ? "nothing was found" : "nothing is remembered yet";
}

const isFrom = (source) => (item) => !source || item.source === source;

$("search").addEventListener("submit", (event) => { event.preventDefault(); attempt(() => findMemories(), event.submitter); });
$("search").addEventListener("reset", () => setTimeout(() => attempt(() => findMemories())));
$("memory-more").addEventListener("click", (event) => attempt(() => findMemories(true), event.target));
$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await call("POST", "v1/memory/items", { text: $("add-text").value });
    $("add-text").value = "";
    await findMemories();
    say("remembered");
  }, event.submitter);
});

async function openItem(id) {
  const item = await attempt(() => call("GET", itemPath(id)));
  if (!item) return $("dialog").close();
  const turns = item.turns.filter((turn) => item.turns.length > 1 || turn.id !== item.id);
  const own = card(item);
  own.querySelectorAll("button").forEach((one) => { if (one.textContent === "Source") one.remove(); });
  const said = turns.map((turn) => el("li", { className: turn.id === item.id ? "this" : "" }, el("span", { className: "hint" }, `${by(turn.source)}, ${when(turn.time)}`), turn.text));
  openDialog("A memory", own, turns.length ? el("h3", {}, "Where it was said") : hint("It was added by itself, in no conversation."), el("ul", { className: "turns" }, ...said));
}

async function openHistory(id) {
  const { data } = await call("GET", `${itemPath(id)}/history`);
  const shown = data.map((version, number) => el("li", { className: version.replaced ? "" : "this" },
    el("span", { className: "hint" }, `${when(version.time)}${version.reason ? `, because: ${version.reason}` : ""}${version.replaced ? "" : " · holds now"}`),
    ...(number ? differences(data[number - 1].text, version.text) : [version.text])));
  openDialog(data.length > 1 ? `${data.length} versions` : "One version", el("ul", { className: "turns" }, ...shown));
}

/** A text with what went and what came, word by word (longest common subsequence). */
function differences(before, after) {
  const [old, now] = [before, after].map((text) => text.match(/\s+|[^\s]+/g) ?? []);
  if (old.length > MOST_DIFFED || now.length > MOST_DIFFED) return [after];
  const common = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--)
    for (let j = now.length - 1; j >= 0; j--)
      common[i][j] = old[i] === now[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const nodes = [];
  for (let i = 0, j = 0; i < old.length || j < now.length;) {
    if (i < old.length && j < now.length && old[i] === now[j]) { nodes.push(old[i++]); j++; }
    else if (i < old.length && (j === now.length || common[i + 1][j] >= common[i][j + 1])) nodes.push(el("del", {}, old[i++]));
    else nodes.push(el("ins", {}, now[j++]));
  }
  return nodes;
}

// --- settings

function showSettings() {
  const facts = {
    "You": session.user, "Key": `${session.key.name} (${session.scopes.join(", ")})`, "Logged in until": when(session.expires),
    "Model": session.model, "Memory": session.memory,
    "Remembered": session.memory === "off" ? "nothing" : session.remembers_answers ? "what you say, and the answers" : "what you say; answers are logged only",
    "Kept for": session.retention_hours ? `${session.retention_hours / 24} days` : "as long as you like", "Server": `ltm ${session.version}`,
  };
  showFacts($("server-facts"), facts);
  const hasMemory = session.memory !== "off";
  $("memory-on").checked = localStorage.getItem("ltm-memory") !== "off" && hasMemory;
  $("memory-on").disabled = !hasMemory;
  $("export-card").hidden = !has("/v1/memory/export") || !may("memory:read") || !hasMemory;
  $("erase").hidden = !may("memory:write") || !hasMemory;
  $("erase-user").textContent = session.user;
}

$("memory-on").addEventListener("change", () => {
  localStorage.setItem("ltm-memory", $("memory-on").checked ? "on" : "off");
  newChat();
  showMemoryUse();
});
$("erase-confirm").addEventListener("input", () => { $("erase-button").disabled = $("erase-confirm").value !== session.user; });
$("erase").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await flush();
    const receipt = await call("DELETE", "v1/memory", { all: true, confirm: $("erase-confirm").value });
    newChat();
    $("erase-confirm").value = "";
    const left = receipt.probe?.found || receipt.probe?.documents ? "some of it is still found: tell whoever runs the server" : "a search finds nothing of it any more";
    $("erase-receipt").textContent = `Erased: ${receipt.items} memories in ${receipt.versions} versions; ${left}.`;
  }, event.submitter).then(() => { $("erase-button").disabled = true; });
});

// --- admin

let usersAfter = null;

async function showAdmin() {
  const { data } = await call("GET", "v1/admin/keys");
  $("keys").replaceChildren(...data.map((key) => {
    const isOwn = key.id === session.key.id;
    const revoke = button("Revoke", async () => {
      if (revoke.textContent !== "Sure?") return void (revoke.textContent = "Sure?");
      await attempt(() => call("DELETE", `v1/admin/keys/${key.id}`), revoke);
      await attempt(showAdmin);
    });
    revoke.onblur = () => { revoke.textContent = "Revoke"; };
    const row = [isOwn ? `${key.name} (yours)` : key.name, el("code", {}, `${key.shown}…`), key.user ?? "(gateway)", key.scopes.join(", "), when(key.expires), when(key.used), revoke];
    return el("tr", {}, ...row.map((cell, number) => el("td", { className: number === 3 ? "wrap" : "" }, cell)));
  }));
  await listUsers();
  const { settings, ...state } = await call("GET", "v1/admin/server");
  const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString([], { maximumFractionDigits: 1 })} MB`;
  showFacts($("server-state"), {
    "Since": when(1000 * state.started), "Waiting for the model": state.waiting, "Open memories": `${state.open_memories}, ${megabytes(state.memory_bytes)}`,
    "Free on the disk": megabytes(state.disk_free_bytes), ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [`--${name.replaceAll("_", "-")}`, value ?? "none"])),
  });
}

const showFacts = (list, facts) => list.replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));

async function listUsers(more = false) {
  const listed = await call("GET", `v1/admin/users?limit=50${more ? `&after=${usersAfter}` : ""}`);
  usersAfter = listed.last_id;
  if (!more) $("users").replaceChildren();
  $("users").append(...listed.data.map((user) => el("tr", {},
    ...[user.user, user.namespace, user.tenant, when(user.created)].map((cell) => el("td", {}, cell)),
    el("td", { className: "number" }, user.items.toLocaleString()), el("td", { className: "number" }, `${(user.nbytes / 1e6).toFixed(1)} MB`))));
  $("users-more").hidden = !listed.has_more;
}

$("users-more").addEventListener("click", (event) => attempt(() => listUsers(true), event.target));
$("key-gateway").addEventListener("change", () => { $("key-user").disabled = $("key-gateway").checked; });
$("make-key").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const gateway = $("key-gateway").checked;
    const scopes = [...document.querySelectorAll("[name=scope]:checked")].map((box) => box.value);
    const made = await call("POST", "v1/admin/keys", { name: $("key-name").value, user: gateway ? null : $("key-user").value, gateway, scopes, expires: $("key-expires").value.trim() || null });
    $("make-key").reset();
    $("key-user").disabled = false;
    const [shown, copying] = $("new-key").querySelectorAll("code, button");
    shown.textContent = made.key;
    copying.onclick = () => copy(made.key);
    $("new-key").hidden = false;
    await showAdmin();
  }, event.submitter);
});

// --- trace

async function showTrace() {
  if (!traced) return $("trace-body").replaceChildren(el("p", { className: "empty" }, "Press Trace under an answer that used memories."));
  $("trace-body").replaceChildren(el("p", { className: "waiting" }, "scoring the answer again"));
  const asked = traced;
  const told = await call("POST", "v1/memory/trace", asked).catch((error) => { $("trace-body").replaceChildren(); throw error; });
  if (asked !== traced) return;
  const words = told.words.map((word) => el("span", {}, word));
  const choose = (chosen) => {
    const moved = new Set(told.items.filter((item, number) => chosen === null || number === chosen).flatMap((item) => item.tokens));
    words.forEach((word, number) => { word.className = moved.has(number) ? "moved" : ""; });
    items.forEach((item, number) => item.setAttribute("aria-pressed", number === chosen));
  };
  const items = told.items.map((item, number) => el("button", { type: "button", "aria-pressed": "false",
    onclick: (event) => choose(event.currentTarget.getAttribute("aria-pressed") === "true" ? null : number) },
  hint(`${likelier(item.nats)}, moved ${item.tokens.length} of ${words.length} words or parts of words`), el("br"), item.text));
  $("trace-body").replaceChildren(
    el("div", { className: "turns-shown" }, el("div", { className: "turn user" }, asked.messages.at(-2).content), el("p", { className: "text" }, ...words)),
    el("h2", {}, "Memories, the one that moved most first"), el("div", { className: "passages" }, ...items));
  choose(null);
}

const likelier = (nats) => {
  const times = Math.exp(Math.abs(nats)).toLocaleString("en", { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 2 });
  return `made the answer ${times} times ${nats >= 0 ? "likelier" : "less likely"}`;
};

// --- documents: only where the server has them

async function listDocuments() {
  await flush();
  const { data } = await call("GET", "v1/memory/documents");
  $("upload").hidden = !may("memory:write");
  $("document-list").replaceChildren(...data.map((one) => {
    const unread = one.num_unread ? ` · ${one.num_unread} of ${one.num_pieces} pieces are still to be read` : "";
    const about = el("div", { className: "about" }, hint(`${when(one.time)} · ${one.num_chars.toLocaleString()} characters${unread}`));
    const made = el("div", { className: "item card" }, el("div", { className: "text" }, one.name), about);
    if (may("memory:write")) about.append(button("Delete", () => deleteLater(`v1/memory/documents/${encodeURIComponent(one.id)}`, one.name, made)));
    return el("li", {}, made);
  }));
  if (!data.length) $("document-list").append(el("li", { className: "hint" }, "no document was read yet"));
}

$("upload").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    for (const file of $("upload-file").files) await upload(file);
    $("upload").reset();
    await listDocuments();
  }, event.submitter).finally(() => $("upload-progress").replaceChildren());
});

/** One file as the body; what comes back meanwhile says how far it was read. */
async function upload(file) {
  const bar = el("progress", { max: 1 });
  $("upload-progress").replaceChildren(el("label", {}, `${file.name} is read`, bar));
  const response = await send("POST", `v1/memory/documents?name=${encodeURIComponent(file.name)}`, file, { headers: { "content-type": "text/plain", accept: "text/event-stream" } });
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return;
  for await (const { data } of eventsOf(response)) {
    if (data.error) throw new Error(data.error.message);
    if (data.total) bar.value = data.done / data.total;
  }
}

begin().catch((error) => { $("login").hidden = false; $("login-error").textContent = error.message; });

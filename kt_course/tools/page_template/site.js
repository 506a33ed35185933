// What the pages do besides showing text: colours, contents, search, boxes that scroll.

const root = document.documentElement;
const theme = document.getElementById("theme");
const isDark = () =>
  root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
theme.setAttribute("aria-pressed", isDark());
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  theme.setAttribute("aria-pressed", isDark());
  try {
    localStorage.setItem("kt-theme", root.dataset.theme);
  } catch {
    // some browsers keep nothing for a page from a file
  }
});

const contents = document.getElementById("contents");
const wide = matchMedia("(min-width: 70rem)");
const fold = () => (contents.open = wide.matches);
wide.addEventListener("change", fold);
fold();

// ---------------------------------------------------------------- search

const field = document.getElementById("search");
const found = document.getElementById("found");
const foundStatus = document.getElementById("found-status");
let reading = null;

/** The rows of the search index, unpacked when they are first needed. */
function readIndex() {
  const text = document.getElementById("search-index").textContent;
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

/** Sections in which every word of the query begins a word; those with it in the title first. */
function search(index, query) {
  const words = query.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  if (!words.length) return [];
  const scored = [];
  for (const [page, chapter, anchor, title, text] of index) {
    const inTitle = ` ${title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ")}`;
    let score = 0;
    for (const word of words) {
      const here = inTitle.includes(` ${word}`) ? 5 : text.includes(` ${word}`) ? 1 : -Infinity;
      score += here + (` ${text} `.includes(` ${word} `) ? 0.5 : 0);
    }
    if (score > 0) scored.push({ score, page, chapter, anchor, title });
  }
  return scored.sort((a, b) => b.score - a.score).slice(0, 12);
}

async function showFound() {
  const hits = search(await (reading ??= readIndex()), field.value);
  found.replaceChildren(
    ...hits.map(({ page, chapter, anchor, title }) => {
      const link = document.createElement("a");
      link.href = anchor ? `${page}.html#${encodeURIComponent(anchor)}` : `${page}.html`;
      const small = document.createElement("small");
      small.textContent = chapter;
      link.append(title, small);
      const item = document.createElement("li");
      item.append(link);
      return item;
    }),
  );
  found.hidden = !hits.length;
  const isAsked = field.value.trim().length > 0;
  foundStatus.textContent = isAsked ? `${hits.length || "no"} sections found` : "";
  foundStatus.className = isAsked && !hits.length ? "none-found" : "hidden";
}
const closeFound = () => {
  found.hidden = true;
  foundStatus.className = "hidden";
};
field.addEventListener("input", showFound);
field.addEventListener("focus", () => field.value && showFound());
field.parentElement.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    field.focus();
    closeFound();
  }
});
field.parentElement.addEventListener("focusout", (event) => {
  if (!event.currentTarget.contains(event.relatedTarget)) setTimeout(closeFound, 150);
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  field.focus();
});

// ---------------------------------------------------------------- wide boxes and pictures

/** Boxes that scroll sideways can be reached and scrolled by keyboard. */
function reachable() {
  for (const formula of document.querySelectorAll("main math:not([display=block])")) {
    const block = formula.closest("p, li, td, th, summary, dd");
    if (block && formula.getBoundingClientRect().width > block.clientWidth) block.classList.add("scroll");
  }
  for (const box of document.querySelectorAll("pre, table, .scroll, math[display=block], .jp-OutputArea-output")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);
reachable();

document.addEventListener("click", ({ target }) => {
  if (target.matches(".jp-RenderedImage img")) target.classList.toggle("large");
});

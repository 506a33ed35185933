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

/** How well each section matches one word of the query: 5 for its title, 1 for its text, more for
 * whole words. */
function scoresOf(word, [sections, words, steps]) {
  const scores = new Map();
  words.forEach((known, i) => {
    if (!known.startsWith(word)) return;
    const score = known === word ? 1.5 : 1;
    let section = 0;
    for (const step of steps[i]) {
      section += step;
      scores.set(section, Math.max(score, scores.get(section) ?? 0));
    }
  });
  sections.forEach(([, , , title], i) => {
    const words = ` ${title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ")} `;
    if (words.includes(` ${word}`)) scores.set(i, words.includes(` ${word} `) ? 5.5 : 5);
  });
  return scores;
}

/** Sections in which every word of the query begins a word; those with it in the title first. */
function search(index, query) {
  const words = query.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  if (!words.length) return [];
  const scores = words.map((word) => scoresOf(word, index));
  return index[0]
    .map(([page, chapter, anchor, title], i) => {
      const score = scores.reduce((sum, one) => sum + (one.get(i) ?? -Infinity), 0);
      return { score, page, chapter, anchor, title };
    })
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score)
    .slice(0, 12);
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

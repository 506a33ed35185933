import { lens, patchesFrom, topAnswers } from "./kt_analysis.js";
import { Model } from "./kt_engine.js";
import { unpackWeights } from "./kt_weights.js";
import { el, views, watchTheme } from "./kt_ui.js";

// What all views on a page share, also when each of them brought its own copy of this module.
const shared = (globalThis.ktShared ??= {
  models: new Map(),
  knockedOut: new Map(),
  listeners: new Set(),
});

/**
 * Make a model known to the page, under its name, with a number after it if another model has it.
 *
 * @param {Object} given {name, config, chars, key, weights}; weights are read when the model is
 *     first used, and may come later, see `unpack`
 * @returns {string} the name that `kt.models()` lists
 */
export function register(given) {
  globalThis.kt ??= hook;
  for (let number = 1; ; number++) {
    const name = number === 1 ? given.name : `${given.name} (${number})`;
    const known = shared.models.get(name);
    if (!known) shared.models.set(name, { given, model: null });
    if (!known || known.given.key === given.key) return name;
  }
}

/** @returns {Model} the model of that name; an Error lists those that there are */
function modelOf(name) {
  const entry = shared.models.get(name);
  if (!entry)
    throw new Error(
      `There is no model “${name}” here, only: ${[...shared.models.keys()].join(", ")}.`,
    );
  if (!entry.model) {
    const { config, chars, weights } = entry.given;
    if (!weights) throw new Error(`“${name}” is still being unpacked: try again in a second.`);
    entry.model = new Model({ name, config, chars, weights });
    delete entry.given.weights;
  }
  return entry.model;
}

/** Unpack the weights of an exported page's model, once; they lie in an element of their own. */
function unpack(name) {
  const entry = shared.models.get(name);
  entry.unpacking ??= (async () => {
    const { textContent } = document.getElementById(`kt-weights-${entry.given.key}`);
    entry.given.weights = await unpackWeights(textContent);
  })();
  return entry.unpacking;
}

const knockedOut = (name) => shared.knockedOut.get(name) ?? [];

/**
 * Knock these heads ([layer, head]) and blocks ([layer]) of a model out, instead of those
 * before.
 */
function knockOut(name, list) {
  const { config } = modelOf(name);
  for (const [layer, head] of list) {
    const fits =
      layer >= 0 &&
      layer < config.n_layer &&
      (head === undefined || (head >= 0 && head < config.n_head));
    if (!fits)
      throw new Error(
        `${name} has layers 0 to ${config.n_layer - 1} and heads 0 to ${config.n_head - 1}, ` +
          `no ${JSON.stringify([layer, head])}.`,
      );
  }
  shared.knockedOut.set(
    name,
    list.map((one) => [...one]),
  );
  for (const listener of shared.listeners) listener(name);
  return knockedOut(name);
}

// ---------------------------------------------------------------- window.kt

/** Rows of n numbers as arrays of arrays. */
const rowsOf = (numbers, n) =>
  Array.from({ length: numbers.length / n }, (_, i) =>
    Array.from(numbers.subarray(i * n, (i + 1) * n)),
  );

/**
 * The hook for tests and for the curious: what the models on this page compute, as plain
 * arrays.
 */
const hook = {
  models: () => [...shared.models.keys()],
  config: (model) => ({ ...modelOf(model).config }),
  vocabulary: (model) => [...modelOf(model).vocabulary],
  answer: (model, question) => modelOf(model).answer(question, { knockedOut: knockedOut(model) }),
  fill: (model, text) => modelOf(model).fillMasks(text, { knockedOut: knockedOut(model) }).answer,
  topAnswers: (model, question, k = 5) =>
    topAnswers(modelOf(model), question, k, { knockedOut: knockedOut(model) }),
  logits: (model, text) =>
    rowsOf(
      modelOf(model).forward(text, { knockedOut: knockedOut(model) }).logits,
      modelOf(model).V,
    ),
  attention: (model, text) =>
    modelOf(model)
      .forward(text, { knockedOut: knockedOut(model) })
      .attention.map(({ weights, nQuery, nKey }) =>
        rowsOf(weights, nQuery * nKey).map((head) => rowsOf(Float32Array.from(head), nKey)),
      ),
  knockOut,
  lens: (model, text) =>
    lens(modelOf(model), text, { knockedOut: knockedOut(model) }).shares.map((state) =>
      rowsOf(state, modelOf(model).V),
    ),
  patch: (model, text, source, places) => {
    const options = { knockedOut: knockedOut(model) };
    const patches = patchesFrom(modelOf(model), source, places, options);
    return rowsOf(modelOf(model).forward(text, { ...options, patches }).logits, modelOf(model).V);
  },
};

const CURIOUS = [
  ["models()", "names of the models on this page"],
  ["answer(model, question)", "the greedy answer, a string; the question has no mask ⁇"],
  ["fill(model, text)", "the likeliest character for each ⁇ of the text, of a masked model"],
  [
    "topAnswers(model, question, k)",
    "the k likeliest answers that a beam search finds: [{answer, probability}, …]",
  ],
  [
    "logits(model, text)",
    "one row per character of the text, which holds the mask ⁇ where the answer begins; " +
      "one number per character of the vocabulary",
  ],
  ["attention(model, text)", "weights, indexed [layer][head][query][key]"],
  [
    "knockOut(model, [[layer, head], …])",
    "sets the output of these heads to 0 from now on; [layer] skips a block, [] restores all",
  ],
  [
    "lens(model, text)",
    "logit lens: probabilities, indexed [state][position][character]; state 0 is the embedding",
  ],
  [
    "patch(model, text, source, [[state, position], …])",
    "logits of text with these residual streams taken from source",
  ],
  [
    "vocabulary(model), config(model)",
    "the characters in the order of their ids; the sizes of the model",
  ],
];

/**
 * The text behind “For the curious”: how to use `window.kt`.
 *
 * @param {string[][]} calls pairs of a call and its meaning
 * @param {string} example a call to copy
 */
function curious(calls, example) {
  return el(
    "details",
    { class: "kt-curious" },
    el("summary", {}, "For the curious: question this page from the console"),
    el(
      "p",
      {},
      "All of it is computed in this page, in JavaScript, on your machine. ",
      "Open the developer tools (F12), choose the console, and call ",
      el("code", {}, "kt"),
      ".",
    ),
    el("pre", { tabindex: "0", "aria-label": "Example" }, example),
    el(
      "dl",
      {},
      ...calls.flatMap(([call, meaning]) => [
        el("dt", {}, el("code", {}, `kt.${call}`)),
        el("dd", {}, meaning),
      ]),
    ),
  );
}

/** The calls of a view: those that it exposes, else those of all models, once per page. */
function curiousAbout(exposed) {
  if (exposed.length) return [curious(exposed, `kt.${exposed[0][2]}`)];
  if (document.querySelector(".kt-curious-models")) return [];
  const first = JSON.stringify(hook.models()[0]);
  const details = curious(CURIOUS, `kt.answer(${first}, "Where was Ada Lovelace born?")`);
  details.classList.add("kt-curious-models");
  return [details];
}

// ---------------------------------------------------------------- mounting

/**
 * Show a view in `root`, instead of the picture that stands there.
 *
 * @param {HTMLElement} root
 * @param {{view: string, models: Object[], examples: Object[], label: string, start: Object,
 *     data: Object}} given models: {name, config, chars, key, weights}; a view over plain data
 *     has `data` and no models
 */
export function mount(root, { view, models, examples = [], label = "", start = {}, data = null }) {
  const names = models.map(register);
  const labels = new Map(names.map((name, i) => [name, models[i].name]));
  const exposed = [];
  const page = {
    names,
    label: (name) => labels.get(name), // what this view calls a model
    examples,
    start,
    data,
    /** Make a function callable as `kt.name(...)`; `call` names its arguments. */
    expose(call, meaning, compute, example) {
      globalThis.kt ??= hook;
      globalThis.kt[call.split("(")[0]] = compute;
      exposed.push([call, meaning, example]);
    },
    model: modelOf,
    knockedOut,
    knockOut,
    onKnockOut(listener) {
      const whileShown = (name) => {
        if (root.isConnected) listener(name);
        else shared.listeners.delete(whileShown); // the cell was run again
      };
      shared.listeners.add(whileShown);
    },
    onTheme: null, // a view sets this to redraw its canvases
    theme: "light",
  };
  root.classList.add("kt-live");
  // JupyterLab would take arrow keys and letters from what is focused, e.g. from a slider.
  root.addEventListener("focusin", (event) => (event.target.dataset.lmSuppressShortcuts = "true"));
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", label || `Explorer: ${view}`);
  watchTheme(root, (theme) => {
    page.theme = theme;
    page.onTheme?.();
  });
  try {
    root.replaceChildren(views[view](page));
    root.append(...curiousAbout(exposed));
    root.dataset.ready = "true";
  } catch (error) {
    fail(root, error);
  }
}

/** Say above the picture why no explorer takes its place. */
function fail(root, error) {
  root.prepend(el("p", { role: "alert" }, `The explorer could not start: ${error.message}`));
  throw error;
}

/**
 * Mount the views of an exported page, each when it comes near the screen. Their models are known
 * to `window.kt` at once, and can be asked soon after the page has loaded.
 */
export function mountAll() {
  for (const script of document.querySelectorAll("script.kt-view:not([data-known])")) {
    script.dataset.known = "true";
    const given = JSON.parse(script.textContent),
      names = given.models.map(register),
      root = document.getElementById(script.dataset.root);
    const start = async () => {
      near.disconnect();
      root.removeEventListener("focus", start);
      root.tabIndex = -1;
      await Promise.all(names.map(unpack)).catch((error) => fail(root, error));
      mount(root, given);
    };
    const near = new IntersectionObserver(
      (entries) => {
        if (entries.some((entry) => entry.isIntersecting)) start();
      },
      { rootMargin: "400px" },
    );
    near.observe(root);
    root.tabIndex = 0; // so that Tab does not jump over an explorer that has not started
    root.setAttribute("role", "region");
    root.setAttribute("aria-label", given.label);
    root.addEventListener("focus", start);
    addEventListener("load", async () => {
      for (const name of names) await unpack(name);
    });
  }
}

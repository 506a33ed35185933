/**
 * What can be asked of a model besides its answer: the likeliest answers (beam search), the
 * probability of a given answer, the logit lens, activation patching, and what the rows of its
 * attention maps stand for. Shapes and options are those of `kt_engine.js`.
 */

import { Cache, MASK, logEnd, logSoftmax, range, rowOf, softmaxRows } from "./kt_engine.js";

// ---------------------------------------------------------------- whole answers

/**
 * Probability that the model writes exactly `answer` after `text`, and then ends; for an encoder,
 * that the masks of `text` hold it.
 *
 * @returns {number}
 */
export function probabilityOf(model, text, answer, options = {}) {
  const isEncoder = model.config.causal === false, { V } = model;
  const { ids, logits } = model.forward(isEncoder ? text : text + answer, options);
  const letters = model.encode(answer), first = ids.length - letters.length;
  const masks = ids.flatMap((id, t) => (model.vocabulary[id] === MASK ? [t] : []));
  const rows = isEncoder ? masks : letters.map((_, i) => first + i - 1); // that predict a letter
  const steps = rows.map((row, i) => logSoftmax(logits, row * V, V)[letters[i]]);
  if (!isEncoder) steps.push(logEnd(logSoftmax(logits, (ids.length - 1) * V, V)));
  return Math.exp(steps.reduce((sum, step) => sum + step, 0));
}

/**
 * The likeliest whole answers that a beam search of that width finds, best first (Graves 2012,
 * section 2.4.2).
 *
 * One place of the beam belongs to the greedy answer, as in `kt_course.explorers.beam_search`.
 *
 * @returns {{answer: string, probability: number}[]} the probability is that of all characters and
 *     the end
 */
export function topAnswers(model, question, width = 5, options = {}, maxNew = 40) {
  model.checkCausal();
  const prompt = model.encodeQuestion(question);
  const nSteps = Math.min(model.config.block_size - prompt.length + 1, maxNew);
  const { cache, logits } = model.readPrompt(prompt, options);
  let living = [{ ids: [], logProbability: 0, cache, logits, isGreedy: true }], ended = [];
  for (let n = 0; n < nSteps && living.length; n++) {
    if (n > 0) readLast(model, living, options);
    const chosen = living.flatMap((one) => continuations(model, one)).sort(byRank).slice(0, width);
    ended.push(...chosen.filter(({ hasEnded }) => hasEnded));
    ended = ended.sort(byProbability).slice(0, width);
    living = chosen.filter(({ hasEnded }) => !hasEnded);
    const isFull = ended.length === width && !living.some(({ isGreedy }) => isGreedy);
    const most = Math.max(...living.map(({ logProbability }) => logProbability));
    if (isFull && most <= ended[width - 1].logProbability) living = []; // longer is less likely
  }
  return [...ended, ...living].sort(byProbability).slice(0, width)
    .map(({ ids, logProbability }) => (
      { answer: model.decode(ids), probability: Math.exp(logProbability) }));
}

const byProbability = (a, b) => b.logProbability - a.logProbability;
const byRank = (a, b) => b.isGreedy - a.isGreedy || byProbability(a, b);

/** Read the last character of each text; the last child of a text takes over its cache. */
function readLast(model, living, options) {
  living.forEach((one, i) => {
    const isShared = living.slice(i + 1).some(({ cache }) => cache === one.cache);
    if (isShared) one.cache = one.cache.clone();
    one.logits = model.run(one.cache, one.ids.slice(-1), options).logits;
  });
}

/** A text of the beam continued by each character, and ended; those that are impossible not. */
function continuations(model, { ids, logProbability, cache, logits, isGreedy }) {
  const step = logSoftmax(logits, logits.length - model.V, model.V);
  const likeliest = step.indexOf(Math.max(...step));
  const next = Array.from(step, (added, id) => (
    { ids: [...ids, id], added, hasEnded: false, isGreedy: isGreedy && id === likeliest }));
  const end = { ids, added: logEnd(step), hasEnded: true, isGreedy: isGreedy && likeliest < 2 };
  return [...next.slice(2), end].filter(({ added }) => added > -Infinity)
    .map(({ added, ...one }) => ({ ...one, logProbability: logProbability + added, cache }));
}

// ---------------------------------------------------------------- looking inside

/**
 * Logit lens: what each residual stream would predict if the final norm and head came right after
 * it.
 *
 * @returns {{ids: number[], shares: Float32Array[]}} n_layer + 1 times (T, V) probabilities
 *     (nostalgebraist 2020)
 */
export function lens(model, text, options = {}) {
  checkTraceable(model);
  const { ids, states } = model.forward(text, options);
  return { ids, shares: states.map((state) => softmaxRows(model.unembed(state), model.V)) };
}

/**
 * Activation patching: read `text`, with some residual streams replaced by those of `source`.
 *
 * @param {[number, number][]} places [state, position] each; state 0 is the embedding, state
 *     l + 1 follows block l
 * @returns {Patch[]} to hand to `forward`, `answer` or `topAnswers` as `options.patches`
 */
export function patchesFrom(model, source, places, options = {}) {
  checkTraceable(model);
  const { ids, states } = model.forward(source, options);
  return places.map(([state, position]) => {
    if (!states[state] || !(position >= 0 && position < ids.length)) {
      throw new Error(`There is no state ${state} at position ${position} of ${ids.length}.`);
    }
    return { state, position, value: rowOf(states[state], position, model.C) };
  });
}

/**
 * Activation patching at every place, one after the other (Meng et al. 2022, section 2.1).
 *
 * A generator, so that a page can draw between the steps: a patch changes nothing before its
 * position, so each step keeps the cache up to there and reads on from it.
 *
 * @param {string} text what the model reads, up to the mask ⁇
 * @param {string} source the text of the same length that the states come from
 * @param {string} answer whose probability after the text is followed
 * @param {number} window positions replaced together, with the named one in the middle: 1, 3 ...
 * @yields {{state: number, position: number, probability: number, shares: Float32Array}}
 *     probability of all characters of the answer, and of each next character after ⁇, (V,)
 */
export function* patchEverywhere(model, text, source, answer, window = 1, options = {}) {
  checkTraceable(model);
  const { C, V } = model, reach = (window - 1) / 2, T = model.encode(text).length;
  const ids = model.checkLength(model.encode(text + answer));
  const clean = model.forward(source + answer, options);
  if (clean.ids.length !== ids.length) throw new Error("Both texts need the same length.");
  const outcome = ({ logits }) => {
    const shares = softmaxRows(logits.subarray(logits.length - (ids.length - T + 1) * V), V);
    const probability = ids.slice(T).reduce((product, id, i) => product * shares[i * V + id], 1);
    return { probability, shares: shares.subarray(0, V) };
  };
  const cache = new Cache(model), read = model.run(cache, ids, options);
  const differs = (state, position) => {
    const a = rowOf(clean.states[state], position, C), b = rowOf(read.states[state], position, C);
    return a.some((value, c) => Math.abs(value - b[c]) > 1e-5);
  };
  for (let position = T - 1; position >= 0; position--) {
    const first = Math.max(position - reach, 0), last = Math.min(position + reach, T - 1);
    const places = range(first, last + 1);
    for (let state = 0; state <= model.blocks.length; state++) {
      let result = outcome(read); // what both texts have in common changes nothing
      if (places.some((place) => differs(state, place))) {
        const patches = places.map((place) => (
          { state, position: place, value: rowOf(clean.states[state], place, C) }));
        const rest = ids.slice(first);
        result = outcome(model.run(cache.truncate(first), rest, { ...options, patches }));
      }
      yield { state, position, ...result };
    }
  }
}

function checkTraceable({ isPerceiver, config }) {
  if (!isPerceiver) return;
  throw new Error(`The middle layers of ${config.variant} hold latents: choose vanilla or rope.`);
}

/**
 * What the rows and columns of a layer's attention stand for, after reading T characters.
 *
 * @returns {{queries: Unit[], keys: Unit[]}} a Unit {name, from, to} covers the characters from
 *     ... to - 1; a latent has those that it adds to the latent before it, the null latent none
 */
export function attentionAxes(model, layer, T) {
  const { stride, nLatents, nullLatent, blocks } = model;
  const characters = range(0, T).map((t) => ({ name: "character", from: t, to: t + 1 }));
  if (!model.isPerceiver) return { queries: characters, keys: characters };
  const latents = range(0, Math.min(Math.ceil(T / stride), nLatents)).map((j) => (
    { name: `latent ${j}`, from: j * stride, to: Math.min((j + 1) * stride, T) }));
  if (layer === 0) return { queries: latents, keys: characters };
  if (layer < blocks.length - 1) return { queries: latents, keys: latents };
  if (nullLatent) latents.unshift({ name: "null latent", from: 0, to: 0 });
  return { queries: characters, keys: latents };
}

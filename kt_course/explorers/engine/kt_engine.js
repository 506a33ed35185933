/**
 * The course's GPT in plain JavaScript: the same forward pass as `kt_core.GPT`, for a web page
 * without a server. `kt_analysis.js` builds on it: beam search, logit lens, patching.
 *
 * Axes in the shape comments: T characters, C channels (n_embd), V characters in the vocabulary, nh
 * heads, hs = C / nh channels per head. A matrix (rows, columns) is one Float32Array, row after
 * row. Sums run in double precision, which is what JavaScript computes in; results are stored in
 * single precision, as in PyTorch.
 *
 * Read it from the bottom: `Model.answer` calls `Model.run`, which calls `Model.block`, which calls
 * `Model.attention`.
 *
 * @typedef {[number, number?]} Knockout      [layer, head], or [layer] for the whole block
 * @typedef {{state: number, position: number, value: Float32Array}} Patch value (C,) replaces
 *     that residual stream
 * @typedef {{weight: Float32Array, bias: ?Float32Array}} Layer weight (nOut, nIn), as PyTorch
 *     stores it
 *
 * @typedef {Object} Options                  what to change in a forward pass
 * @property {Knockout[]} [knockedOut] heads whose output is set to 0, blocks that are skipped
 * @property {Patch[]} [patches]              residual streams to replace (vanilla and rope)
 * @property {boolean} [record]               read the whole text again, to see all its attention
 *
 * @typedef {{queryReach: number[], sourceReach: number[], slot: number}} Rows the last input that
 *     each query and each source of an attention has read; the cache's slot of the first source
 * @typedef {Options & {cache: Cache, attention: Object[], states: Float32Array[]}} Pass one
 *     forward pass: what to change in it, and what it records
 */

export const PAD = "□"; // id 0: fills a block
export const MASK = "⁇"; // id 1: opens and closes an answer, or hides a character
const MASK_ID = 1;

// ---------------------------------------------------------------- reading weights

/** The float32 value of every 16-bit float, so that converting one is a look-up. (65536,) */
function halfPrecisionTable() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
}

let halves = null;

/**
 * Read a safetensors file: 8 bytes with the header's length, a JSON header, then the numbers.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Map<string, Float32Array>} the tensors by name
 */
export function readSafetensors(buffer) {
  halves ??= halfPrecisionTable();
  const headerLength = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerLength)));
  delete header.__metadata__;
  const tensors = new Map();
  for (const [name, { dtype, data_offsets }] of Object.entries(header)) {
    if (dtype !== "F16") throw new Error(`${name} has the type ${dtype}; this page reads F16`);
    const [from, to] = data_offsets.map((offset) => offset + 8 + headerLength);
    const bits = new Uint16Array(buffer.slice(from, to)); // a copy, so that it is aligned
    tensors.set(name, Float32Array.from(bits, (each) => halves[each]));
  }
  return tensors;
}

// ---------------------------------------------------------------- arithmetic

/**
 * y = x Wᵀ + b. Two rows and four outputs at a time: eight sums in registers, six loads for eight
 * products. The last four outputs overlap with those before if nOut is no multiple of four.
 *
 * @param {Float32Array} x (rows, nIn)
 * @param {Layer} layer with at least four outputs
 * @returns {Float32Array} (rows, nOut)
 */
function linear(x, nIn, { weight, bias }) {
  const rows = x.length / nIn, nOut = weight.length / nIn;
  const y = new Float32Array(rows * nOut);
  for (let row = 0; row < rows; row += 2) {
    for (let group = 0; group < nOut; group += 4) {
      const out = Math.min(group, nOut - 4);
      if (row + 1 < rows) twoByFour(x, row * nIn, weight, out * nIn, nIn, y, row * nOut + out, nOut);
      else oneByFour(x, row * nIn, weight, out * nIn, nIn, y, row * nOut + out);
    }
  }
  if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i % nOut];
  return y;
}

/** Products of two rows of x, from x0 on, with four rows of weights, from w0 on. */
function twoByFour(x, x0, weight, w0, nIn, y, y0, nOut) {
  const x1 = x0 + nIn, w1 = w0 + nIn, w2 = w1 + nIn, w3 = w2 + nIn, y1 = y0 + nOut;
  let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
  for (let i = 0; i < nIn; i++) {
    const a = x[x0 + i], b = x[x1 + i];
    const p = weight[w0 + i], q = weight[w1 + i], r = weight[w2 + i], s = weight[w3 + i];
    a0 += a * p; a1 += a * q; a2 += a * r; a3 += a * s;
    b0 += b * p; b1 += b * q; b2 += b * r; b3 += b * s;
  }
  y[y0] = a0; y[y0 + 1] = a1; y[y0 + 2] = a2; y[y0 + 3] = a3;
  y[y1] = b0; y[y1 + 1] = b1; y[y1 + 2] = b2; y[y1 + 3] = b3;
}

/** The same for one row, such as that of a decoding step. */
function oneByFour(x, x0, weight, w0, nIn, y, y0) {
  const w1 = w0 + nIn, w2 = w1 + nIn, w3 = w2 + nIn;
  let a0 = 0, a1 = 0, a2 = 0, a3 = 0;
  for (let i = 0; i < nIn; i++) {
    const a = x[x0 + i];
    a0 += a * weight[w0 + i]; a1 += a * weight[w1 + i];
    a2 += a * weight[w2 + i]; a3 += a * weight[w3 + i];
  }
  y[y0] = a0; y[y0 + 1] = a1; y[y0 + 2] = a2; y[y0 + 3] = a3;
}

/** Dot product of n numbers of `a` from i on and of `b` from j on. */
function dot(a, i, b, j, n) {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += a[i + k] * b[j + k];
  return sum;
}

/** Layer normalisation of each row, (rows, C) -> (rows, C). */
function layerNorm(x, { weight, bias }, eps = 1e-5) {
  const C = weight.length;
  const y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += C) {
    let mean = 0, variance = 0;
    for (let c = 0; c < C; c++) mean += x[at + c];
    mean /= C;
    for (let c = 0; c < C; c++) variance += (x[at + c] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / C + eps);
    for (let c = 0; c < C; c++) y[at + c] = (x[at + c] - mean) * scale * weight[c] + bias[c];
  }
  return y;
}

/**
 * Scale each head's channels of each row to a root mean square of 1, in place. `x` (rows, nh *
 * hs).
 */
function normaliseHeads(x, hs, eps = 1.1920929e-7) {
  for (let at = 0; at < x.length; at += hs) {
    const scale = 1 / Math.sqrt(dot(x, at, x, at, hs) / hs + eps);
    for (let c = 0; c < hs; c++) x[at + c] *= scale;
  }
}

/** The error function to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t;
  const y = 1 - (series + 0.254829592) * t * Math.exp(-x * x);
  return x < 0 ? -y : y;
}

/** x times the standard normal distribution function of x (Hendrycks and Gimpel 2016). */
const gelu = (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2));

/** Index of the largest of n numbers of `x` from `at` on, the first one if several are equal. */
function argmax(x, at, n) {
  let best = 0;
  for (let i = 1; i < n; i++) if (x[at + i] > x[at + best]) best = i;
  return best;
}

/** Logarithms of softmax probabilities of n logits from `at` on. @returns {Float64Array} (n,) */
export function logSoftmax(logits, at, n) {
  const row = Float64Array.from(logits.subarray(at, at + n));
  const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0)) + largest;
  return row.map((value) => value - total);
}

/** Replace n numbers of `x` from `at` on by their softmax. */
function softmaxInPlace(x, at, n) {
  let largest = -Infinity, total = 0;
  for (let i = at; i < at + n; i++) if (x[i] > largest) largest = x[i];
  for (let i = at; i < at + n; i++) total += x[i] = Math.exp(x[i] - largest);
  for (let i = at; i < at + n; i++) x[i] /= total;
}

/** Softmax probabilities of each row. @returns {Float32Array} (rows, n) */
export function softmaxRows(logits, n) {
  const shares = logits.slice();
  for (let at = 0; at < shares.length; at += n) softmaxInPlace(shares, at, n);
  return shares;
}

/** Row number `row` of (rows, C), a view. @returns {Float32Array} (C,) */
export const rowOf = (x, row, C) => x.subarray(row * C, (row + 1) * C);

/** Logarithm of the probability that a text ends, by □ or ⁇. @param {Float64Array} step (V,) */
export const logEnd = (step) => Math.log(Math.exp(step[0]) + Math.exp(step[1]));

/** Arrays, one after the other in one array. */
function concatenate(arrays) {
  const joined = new Float32Array(arrays.reduce((total, { length }) => total + length, 0));
  let at = 0;
  for (const each of arrays) {
    joined.set(each, at);
    at += each.length;
  }
  return joined;
}

/** The integers from `start` to before `end`. */
export const range = (start, end) => Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i);

// ---------------------------------------------------------------- the KV cache

/**
 * Keys and values of the characters that one text has so far. Slot j of a layer holds the key of
 * input or latent j; `reach[j]` is the last input that went into it, so a query that may know
 * inputs 0 ... t sees the slots with reach <= t.
 */
export class Cache {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    this.length = 0; // characters read
    const { nLatents, C, config } = model;
    this.layers = Array.from({ length: config.n_layer }, (_, layer) => {
      const slots = model.isPerceiver && layer > 0 ? nLatents + 1 : config.block_size;
      const key = new Float32Array(slots * C), value = new Float32Array(slots * C);
      return { key, value, reach: new Int32Array(slots), count: 0 };
    });
    this.inputs = model.local ? new Float32Array(config.block_size * C) : null;
  }

  /** @returns {Cache} a copy that goes on independently */
  clone() {
    const layers = this.layers.map(({ key, value, reach, count }) => (
      { key: key.slice(), value: value.slice(), reach: reach.slice(), count }));
    const inputs = this.inputs?.slice();
    return Object.assign(Object.create(Cache.prototype), this, { layers, inputs });
  }

  /** Forget all characters but the first `length`. */
  truncate(length) {
    const { isPerceiver, stride, nLatents } = this.model;
    const latents = Math.min(Math.floor(length / stride), nLatents); // that read nothing newer
    this.length = length;
    this.layers.forEach((layer, i) => {
      const nullSlot = this.model.nullLatent && i === this.layers.length - 1 ? 1 : 0;
      layer.count = isPerceiver && i > 0 ? latents + nullSlot : length;
    });
    return this;
  }
}

// ---------------------------------------------------------------- the model

export class Model {
  /**
   * @param {Object} given
   * @param {string} given.name what the page calls the model
   * @param {Object} given.config the fields of `kt_core.GPTConfig`
   * @param {string} given.chars the vocabulary after □ and ⁇, in the order of the ids
   * @param {ArrayBuffer|ArrayBufferView} given.weights a safetensors file
   */
  constructor({ name = "", config, chars, weights }) {
    if (ArrayBuffer.isView(weights)) {
      weights = weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength);
    }
    Object.assign(this, { name, config, C: config.n_embd, V: config.vocab_size });
    this.vocabulary = [PAD, MASK, ...chars];
    this.ids = new Map(this.vocabulary.map((character, id) => [character, id]));
    const { block_size, bottleneck, n_layer, variant } = config;
    this.usesRotary = ["rope", "perceiver_ar"].includes(variant);
    this.isPerceiver = ["perceiver", "perceiver_ar"].includes(variant);
    this.stride = variant === "perceiver_ar" ? Math.ceil(block_size / bottleneck) : 1;
    this.nLatents = variant === "perceiver" ? bottleneck : Math.ceil(block_size / this.stride);
    this.rotation = this.usesRotary ? this.rotationTable() : null;

    const tensors = readSafetensors(weights);
    const tensor = (key) => {
      if (!tensors.has(key)) throw new Error(`the weights of “${name}” have no tensor ${key}`);
      return tensors.get(key);
    };
    const layer = (key) => (
      { weight: tensor(`${key}.weight`), bias: tensors.get(`${key}.bias`) ?? null });
    this.tokEmb = tensor("tok_emb.weight"); // (V, C)
    this.posEmb = this.usesRotary ? null : tensor("pos_emb"); // (block_size, C)
    const names = { query: "attn.query", key: "attn.key", value: "attn.value", proj: "attn.proj",
      ln1: "ln1", ln2: "ln2", up: "mlp.up", down: "mlp.proj" };
    this.blocks = range(0, n_layer).map((i) => {
      const parts = Object.entries(names).map(([short, long]) => [
        short, layer(`blocks.${i}.${long}`)]);
      const source = `blocks.${i}.ln_source`;
      const lnSource = tensors.has(`${source}.weight`) ? layer(source) : null;
      return { ...Object.fromEntries(parts), lnSource };
    });
    this.lnF = layer("ln_f");
    this.head = layer("head"); // weight (V, C)
    const last = `blocks.${n_layer - 1}`;
    this.latents = variant === "perceiver" ? tensor("blocks.0.latents") : null; // (m, C)
    this.nullLatent = variant === "perceiver_ar" ? tensor(`${last}.null`) : null; // (C,)
    this.local = this.nullLatent && tensor(`${last}.local`); // (s - 2, C)
    if (!this.local?.length) this.local = null;
  }

  /**
   * cos and sin of position x theta_i, (block_size + stride, hs / 2) each (Su et al. 2021,
   * section 3.2.2).
   */
  rotationTable() {
    const { block_size, n_head, rope_base = 10000 } = this.config;
    const half = this.C / n_head / 2, positions = block_size + this.stride;
    const cos = new Float32Array(positions * half), sin = new Float32Array(positions * half);
    for (let t = 0; t < positions; t++) {
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(t * Math.fround(rope_base ** (-i / half)));
        cos[t * half + i] = Math.cos(angle);
        sin[t * half + i] = Math.sin(angle);
      }
    }
    return { cos, sin };
  }

  /**
   * @param {string} text
   * @returns {number[]} ids; an Error names a character that the model does not know
   */
  encode(text) {
    return Array.from(text, (character, position) => {
      const id = this.ids.get(character);
      if (id !== undefined) return id;
      const where = `“${character}” (position ${position})`;
      throw new Error(`This model has never seen the character ${where}.`);
    });
  }

  /** @param {Iterable<number>} ids @returns {string} */
  decode(ids) {
    return Array.from(ids, (id) => this.vocabulary[id]).join("");
  }

  /** The prompt "question ⁇" as ids. */
  encodeQuestion(question) {
    if (!question) throw new Error("Type a question first.");
    return this.checkLength([...this.encode(question), MASK_ID]);
  }

  checkLength(ids) {
    const { block_size } = this.config;
    if (!ids.length) throw new Error("Type some text first.");
    if (ids.length > block_size) {
      throw new Error(`The text has ${ids.length} characters; this model reads ${block_size}.`);
    }
    return ids;
  }

  // -------------------------------------------------------------- one block

  /**
   * Turn each pair of channels (c, c + hs/2) of each head by the angle of its row's position,
   * in place.
   */
  rotate(x, positions) {
    const hs = this.C / this.config.n_head, half = hs / 2;
    const { cos, sin } = this.rotation;
    positions.forEach((position, row) => {
      const at = Math.max(position, 0) * half; // the null latent, whose reach is -1, stands at 0
      for (let head = row * this.C; head < (row + 1) * this.C; head += hs) {
        for (let c = 0; c < half; c++) {
          const a = x[head + c], b = x[head + c + half];
          x[head + c] = a * cos[at + c] - b * sin[at + c];
          x[head + c + half] = a * sin[at + c] + b * cos[at + c];
        }
      }
    });
  }

  /**
   * Multi-head attention of the rows of `x` over the new keys and those in the cache.
   *
   * @param {Float32Array} x normalised queries (rows, C)
   * @param {Float32Array} source normalised keys and values (sources, C)
   * @param {Rows} rows what the rows of x and source have read, and the slot of the first source
   * @param {Pass} pass
   * @returns {Float32Array} (rows, C)
   */
  attention(layer, x, source, { queryReach, sourceReach, slot }, pass) {
    const { C, config } = this;
    const { query, key, value, proj } = this.blocks[layer];
    const nh = config.n_head, hs = C / nh, scale = 1 / Math.sqrt(hs);
    const q = linear(x, C, query), k = linear(source, C, key), v = linear(source, C, value);
    if (config.qk_norm) [q, k].forEach((each) => normaliseHeads(each, hs));
    if (this.usesRotary) {
      this.rotate(q, queryReach);
      this.rotate(k, sourceReach);
    }
    const stored = pass.cache.layers[layer];
    stored.key.set(k, slot * C);
    stored.value.set(v, slot * C);
    stored.reach.set(sourceReach, slot);
    if (sourceReach.length) stored.count = slot + sourceReach.length;

    const nQuery = queryReach.length, nKey = stored.count;
    const weights = new Float32Array(nh * nQuery * nKey), context = new Float32Array(nQuery * C);
    for (let head = 0; head < nh; head++) {
      const isSilent = pass.knockedOut?.some(([l, h]) => l === layer && h === head);
      queryReach.forEach((reach, i) => {
        const row = (head * nQuery + i) * nKey, at = i * C + head * hs;
        let visible = nKey;
        if (config.causal !== false) while (visible && stored.reach[visible - 1] > reach) visible--;
        for (let j = 0; j < visible; j++) {
          weights[row + j] = scale * dot(q, at, stored.key, j * C + head * hs, hs);
        }
        softmaxInPlace(weights, row, visible);
        for (let j = 0; j < visible && !isSilent; j++) {
          const weight = weights[row + j], from = j * C + head * hs;
          for (let c = 0; c < hs; c++) context[at + c] += weight * stored.value[from + c];
        }
      });
    }
    pass.attention[layer] = { weights, nHead: nh, nQuery, nKey };
    return linear(context, C, proj);
  }

  /**
   * Pre-norm Transformer block: x + attention(norm x), then x + MLP(norm x); over `source`
   * where there is one.
   */
  block(layer, x, source, rows, pass) {
    const { ln1, ln2, lnSource, up, down } = this.blocks[layer], { C } = this;
    const normed = layerNorm(x, ln1);
    const read = source ? layerNorm(source, lnSource) : normed;
    const attended = this.attention(layer, normed, read, rows, pass);
    const isSkipped = pass.knockedOut?.some(([l, head]) => l === layer && head === undefined);
    if (isSkipped) return x; // its attention weights are shown, nothing else of it counts
    const y = x.map((value, i) => value + attended[i]);
    const added = linear(linear(layerNorm(y, ln2), C, up).map(gelu), 4 * C, down);
    return y.map((value, i) => value + added[i]);
  }

  // -------------------------------------------------------------- the forward pass

  /**
   * Read new characters after those that the cache holds, and predict the next ones.
   *
   * @param {Cache} cache is brought up to date
   * @param {number[]} ids
   * @param {Options} options
   * @returns {{logits: Float32Array, attention: Object[], states: Float32Array[]}} logits (new
   *     characters, V); attention per layer {weights (nh, T_query, T_key), nHead, nQuery, nKey};
   *     states n_layer + 1 times (new characters, C), none for a perceiver
   */
  run(cache, ids, options = {}) {
    const pass = { ...options, cache, attention: [], states: [] };
    let x = this.embed(ids, cache.length);
    if (this.isPerceiver) x = this.throughLatents(x, pass);
    else {
      const reach = range(cache.length, cache.length + ids.length);
      const rows = { queryReach: reach, sourceReach: reach, slot: cache.length };
      this.atState(0, x, pass);
      for (let layer = 0; layer < this.blocks.length; layer++) {
        x = this.block(layer, x, null, rows, pass);
        this.atState(layer + 1, x, pass);
      }
    }
    cache.length += ids.length;
    return { logits: this.unembed(x), attention: pass.attention, states: pass.states };
  }

  /** Embeddings of characters of which the first stands at position `start`, (rows, C). */
  embed(ids, start) {
    const { C, tokEmb, posEmb } = this, x = new Float32Array(ids.length * C);
    ids.forEach((id, i) => {
      x.set(rowOf(tokEmb, id, C), i * C);
      if (posEmb) for (let c = 0; c < C; c++) x[i * C + c] += posEmb[(start + i) * C + c];
    });
    return x;
  }

  /** The last norm and the head, (rows, C) -> (rows, V). */
  unembed(x) {
    return linear(layerNorm(x, this.lnF), this.C, this.head);
  }

  /** Patch and record the residual stream between two blocks; state 0 is the embedding. */
  atState(state, x, { cache, patches = [], states }) {
    for (const patch of patches) {
      const at = (patch.position - cache.length) * this.C;
      if (patch.state === state && at >= 0 && at < x.length) x.set(patch.value, at);
    }
    states.push(x.slice());
  }

  /**
   * The perceivers: down to the latents, through the middle blocks, up to the outputs.
   *
   * Latent j of perceiver_ar reads inputs 0 ... s (j + 1) - 1, latent j of perceiver inputs 0 ...
   * j. New characters change the latent that the first of them belongs to, and add those after it.
   */
  throughLatents(x, pass) {
    const { C, stride, nLatents, nullLatent } = this, last = this.blocks.length - 1;
    const start = pass.cache.length, end = start + x.length / C;
    const first = Math.min(Math.floor(start / stride), nLatents);
    const latents = range(first, Math.min(Math.ceil(end / stride), nLatents));
    const inputs = range(start, end), reach = latents.map((j) => stride * (j + 1) - 1);
    const initial = latents.map((j, i) => (
      this.latents ? rowOf(this.latents, j, C) : rowOf(x, Math.min(reach[i], end - 1) - start, C)));
    const down = { queryReach: reach, sourceReach: inputs, slot: start };
    const middle = { queryReach: reach, sourceReach: reach, slot: first };
    let z = this.block(0, concatenate(initial), x, down, pass);
    for (let layer = 1; layer < last; layer++) z = this.block(layer, z, null, middle, pass);
    if (this.local) x = this.addNewest(x, pass.cache);
    if (!nullLatent) return this.block(last, x, z, { ...middle, queryReach: inputs }, pass);
    const isFirst = start === 0; // slot 0 of the last block holds the null latent, which read none
    const up = { queryReach: inputs, sourceReach: isFirst ? [-1, ...reach] : reach,
      slot: isFirst ? 0 : first + 1 };
    return this.block(last, x, isFirst ? concatenate([nullLatent, z]) : z, up, pass);
  }

  /**
   * x[t] + the sum over k = 1 ... s - 2 of local[k - 1] * x[t - k]: inputs that no legal latent
   * holds yet.
   */
  addNewest(x, { inputs, length }) {
    const { C, local } = this;
    inputs.set(x, length * C);
    return x.map((value, i) => {
      const at = length * C + i, c = i % C;
      for (let k = 1; k * C <= Math.min(local.length, at - c); k++) {
        value += local[(k - 1) * C + c] * inputs[at - k * C];
      }
      return value;
    });
  }

  /**
   * One forward pass over a text.
   *
   * @param {string} text
   * @param {Options} options
   * @returns what `run` returns, and the ids of the text
   */
  forward(text, options = {}) {
    const ids = this.checkLength(this.encode(text));
    return { ids, ...this.run(new Cache(this), ids, options) };
  }

  // -------------------------------------------------------------- answers

  /**
   * @param {string} question
   * @param {Options} options
   * @returns {string} the greedy answer, as `kt_core.answer`
   */
  answer(question, options = {}) {
    return this.continueText(this.decode(this.encodeQuestion(question)), options).answer;
  }

  /**
   * Continue a text with the likeliest character, again and again, until ⁇, □ or the block's end.
   *
   * @param {string} text
   * @param {Options} options
   * @returns {{ids: number[], answer: string, probability: number, attention: Object[],
   *     states: Float32Array[]}} ids of the text; the probability is that of all new characters
   *     and the end; the rest is as in `run`, and covers the text if `options.record`
   */
  continueText(text, options = {}) {
    this.checkCausal();
    const ids = this.checkLength(this.encode(text)), answer = [];
    const { cache, logits, attention, states } = this.readPrompt(ids, options);
    let step = logSoftmax(logits, logits.length - this.V, this.V), logProbability = 0;
    while (true) {
      const id = argmax(step, 0, this.V);
      logProbability += id < 2 ? logEnd(step) : step[id];
      if (id < 2) break; // ⁇ or □ ends the answer
      answer.push(id);
      if (cache.length === this.config.block_size) break;
      step = logSoftmax(this.run(cache, [id], options).logits, 0, this.V);
    }
    const probability = Math.exp(logProbability);
    return { ids, answer: this.decode(answer), probability, attention, states };
  }

  /**
   * Read a prompt. What it has in common with the beginning of the previous one is not read again:
   * who types a name changes the end of the text.
   *
   * @returns what `run` returns, and the cache
   */
  readPrompt(ids, options) {
    const isPlain = !options.record && !options.patches;
    const knockedOut = JSON.stringify(options.knockedOut ?? []);
    let known = 0, cache = new Cache(this);
    if (isPlain && this.previous?.knockedOut === knockedOut) {
      while (known < ids.length - 1 && ids[known] === this.previous.ids[known]) known++;
      cache = this.previous.cache.truncate(known);
    }
    if (isPlain) this.previous = { ids, cache, knockedOut };
    return { cache, ...this.run(cache, ids.slice(known), options) };
  }

  checkCausal() {
    if (this.config.causal !== false) return;
    throw new Error("This model reads in both directions; it does not write answers.");
  }

  /**
   * Fill every ⁇ of a text with its likeliest character, all in one pass, as a masked language
   * model does (Devlin et al. 2019, section 3.1).
   *
   * @returns the same as `continueText`; the answer holds the characters at the masks, in order,
   *     and the probability is their product
   */
  fillMasks(text, options = {}) {
    const { ids, logits, attention, states } = this.forward(text, options), answer = [];
    let logProbability = 0;
    ids.forEach((id, t) => {
      if (id !== MASK_ID) return;
      const step = logSoftmax(logits, t * this.V, this.V), best = argmax(step, 2, this.V - 2) + 2;
      answer.push(best);
      logProbability += step[best];
    });
    const probability = Math.exp(logProbability);
    return { ids, answer: this.decode(answer), probability, attention, states };
  }

  /** What the model makes of a text: a causal one continues it, an encoder fills its masks. */
  complete(text, options = {}) {
    const isEncoder = this.config.causal === false;
    return isEncoder ? this.fillMasks(text, options) : this.continueText(text, options);
  }
}

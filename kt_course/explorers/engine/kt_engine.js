/**
 * The course's GPT in plain JavaScript: the same forward pass as `kt_core.GPT`, for a web page
 * without a server.
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
 *
 * @typedef {Object} Options                  what to change in a forward pass, and what to record
 * @property {Knockout[]} [knockedOut] heads whose output is set to 0, blocks that are skipped
 * @property {Patch[]} [patches]              residual streams to replace (vanilla and rope)
 * @property {boolean} [record]               keep attention weights and residual streams
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
 * @returns {Map<string, {shape: number[], data: Float32Array}>} float16 and float32 tensors by name
 */
export function readSafetensors(buffer) {
  halves ??= halfPrecisionTable();
  const headerLength = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerLength)));
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = entry.data_offsets.map((offset) => offset + 8 + headerLength);
    const bytes = buffer.slice(from, to); // a copy, so that it is aligned
    if (entry.dtype === "F16") {
      const bits = new Uint16Array(bytes), data = new Float32Array(bits.length);
      for (let i = 0; i < data.length; i++) data[i] = halves[bits[i]];
      tensors.set(name, { shape: entry.shape, data });
    } else if (entry.dtype === "F32") {
      tensors.set(name, { shape: entry.shape, data: new Float32Array(bytes) });
    } else throw new Error(`${name} has the type ${entry.dtype}; this page reads F16 and F32`);
  }
  return tensors;
}

// ---------------------------------------------------------------- arithmetic

/**
 * y = x Wᵀ + b. Two rows and four outputs at a time: eight sums in registers, six loads for eight
 * products.
 *
 * @param {Float32Array} x (rows, nIn)
 * @param {Float32Array} weight (nOut, nIn), as PyTorch stores it
 * @param {?Float32Array} bias (nOut,)
 * @returns {Float32Array} (rows, nOut)
 */
export function linear(x, rows, weight, bias, nIn, nOut) {
  const y = new Float32Array(rows * nOut);
  const even = nOut & ~3;
  let row = 0;
  for (; row + 1 < rows; row += 2) {
    const x0 = row * nIn, x1 = x0 + nIn;
    for (let out = 0; out < even; out += 4) {
      const w0 = out * nIn, w1 = w0 + nIn, w2 = w1 + nIn, w3 = w2 + nIn;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let i = 0; i < nIn; i++) {
        const a = x[x0 + i], b = x[x1 + i];
        const p = weight[w0 + i], q = weight[w1 + i], r = weight[w2 + i], s = weight[w3 + i];
        a0 += a * p; a1 += a * q; a2 += a * r; a3 += a * s;
        b0 += b * p; b1 += b * q; b2 += b * r; b3 += b * s;
      }
      const y0 = row * nOut + out, y1 = y0 + nOut;
      y[y0] = a0; y[y0 + 1] = a1; y[y0 + 2] = a2; y[y0 + 3] = a3;
      y[y1] = b0; y[y1 + 1] = b1; y[y1 + 2] = b2; y[y1 + 3] = b3;
    }
  }
  if (row < rows) { // one row is left over; a decoding step has no other
    const x0 = row * nIn;
    for (let out = 0; out < even; out += 4) {
      const w0 = out * nIn, w1 = w0 + nIn, w2 = w1 + nIn, w3 = w2 + nIn;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0;
      for (let i = 0; i < nIn; i++) {
        const a = x[x0 + i];
        a0 += a * weight[w0 + i]; a1 += a * weight[w1 + i];
        a2 += a * weight[w2 + i]; a3 += a * weight[w3 + i];
      }
      const y0 = row * nOut + out;
      y[y0] = a0; y[y0 + 1] = a1; y[y0 + 2] = a2; y[y0 + 3] = a3;
    }
  }
  for (let out = even; out < nOut; out++) { // outputs that do not fill a group of four
    for (let r = 0; r < rows; r++) y[r * nOut + out] = dot(x, r * nIn, weight, out * nIn, nIn);
  }
  if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i % nOut];
  return y;
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

/** Softmax probabilities of each row. @returns {Float32Array} (rows, n) */
export function softmaxRows(logits, n) {
  const shares = new Float32Array(logits.length);
  for (let at = 0; at < logits.length; at += n) {
    shares.set(logSoftmax(logits, at, n).map(Math.exp), at);
  }
  return shares;
}

// ---------------------------------------------------------------- the KV cache

/**
 * Keys and values of the characters that one text has so far. Slot j of a layer holds the key of
 * input or latent j; `reach[j]` is the last input that went into it, so a query that may know
 * inputs 0 ... t sees the slots with reach <= t.
 */
class Cache {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    this.length = 0; // characters read
    const { nLatents, C, config } = model;
    this.layers = Array.from({ length: config.n_layer }, (_, layer) => {
      const slots = model.latent && layer > 0 ? nLatents + 1 : config.block_size;
      const key = new Float32Array(slots * C), value = new Float32Array(slots * C);
      return { key, value, reach: new Int32Array(slots), count: 0 };
    });
    this.inputs = model.local ? new Float32Array(config.block_size * C) : null;
  }

  /** @returns {Cache} a copy that goes on independently */
  clone() {
    const copy = new Cache(this.model);
    copy.length = this.length;
    if (this.inputs) copy.inputs.set(this.inputs);
    copy.layers.forEach((layer, i) => {
      const { key, value, reach, count } = this.layers[i];
      layer.key.set(key.subarray(0, count * this.model.C));
      layer.value.set(value.subarray(0, count * this.model.C));
      layer.reach.set(reach);
      layer.count = count;
    });
    return copy;
  }

  /** Forget all characters but the first `length`. */
  truncate(length) {
    const { latent, stride, nLatents } = this.model;
    const latents = Math.min(Math.floor(length / stride), nLatents); // that read nothing newer
    this.length = length;
    this.layers.forEach((layer, i) => {
      const nullSlot = this.model.null && i === this.layers.length - 1 ? 1 : 0;
      layer.count = latent && i > 0 ? latents + nullSlot : length;
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
    this.rotary = ["rope", "perceiver_ar"].includes(config.variant);
    this.latent = ["perceiver", "perceiver_ar"].includes(config.variant);
    const { block_size, bottleneck, variant } = config;
    this.stride = variant === "perceiver_ar" ? Math.ceil(block_size / bottleneck) : 1;
    this.nLatents = variant === "perceiver" ? bottleneck : Math.ceil(block_size / this.stride);

    const tensors = readSafetensors(weights);
    const tensor = (key) => {
      if (!tensors.has(key)) throw new Error(`the weights of “${name}” have no tensor ${key}`);
      return tensors.get(key).data;
    };
    const layer = (key) => (
      { weight: tensor(`${key}.weight`), bias: tensors.get(`${key}.bias`)?.data ?? null });
    this.tokEmb = tensor("tok_emb.weight"); // (V, C)
    this.posEmb = this.rotary ? null : tensor("pos_emb"); // (block_size, C)
    this.blocks = Array.from({ length: config.n_layer }, (_, i) => {
      const at = `blocks.${i}`;
      const names = { query: "attn.query", key: "attn.key", value: "attn.value", proj: "attn.proj",
        ln1: "ln1", ln2: "ln2", up: "mlp.up", down: "mlp.proj" };
      const block = {};
      for (const [short, long] of Object.entries(names)) block[short] = layer(`${at}.${long}`);
      block.lnSource = tensors.has(`${at}.ln_source.weight`) ? layer(`${at}.ln_source`) : null;
      return block;
    });
    this.lnF = layer("ln_f");
    this.head = tensor("head.weight"); // (V, C)
    const last = `blocks.${config.n_layer - 1}`;
    this.latents = config.variant === "perceiver" ? tensor("blocks.0.latents") : null; // (m, C)
    this.null = config.variant === "perceiver_ar" ? tensor(`${last}.null`) : null; // (C,)
    this.local = this.null && tensor(`${last}.local`); // (s - 2, C)
    if (!this.local?.length) this.local = null;
    if (this.rotary) this.rotation = this.rotationTable();
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
    return this.checkLength([...this.encode(question), 1]);
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
   * Multi-head attention of the rows of `x` over the keys of each text, the new ones and those in
   * its cache.
   *
   * @param {Float32Array} x normalised queries (rows, C)
   * @param {Float32Array} source normalised keys and values (sources, C)
   * @param {Plan[]} plans one per text: {cache, queryReach, sourceReach, slot}; rows follow
   *     each other in that order
   * @returns {Float32Array} (rows, C)
   */
  attention(layer, x, source, plans, options) {
    const { C, config } = this;
    const { query, key, value, proj } = this.blocks[layer];
    const nh = config.n_head, hs = C / nh, scale = 1 / Math.sqrt(hs);
    const rows = x.length / C, sources = source.length / C;
    const q = linear(x, rows, query.weight, query.bias, C, C);
    const k = linear(source, sources, key.weight, key.bias, C, C);
    const v = linear(source, sources, value.weight, value.bias, C, C);
    if (config.qk_norm) { normaliseHeads(q, hs); normaliseHeads(k, hs); }
    if (this.rotary) {
      this.rotate(q, plans.flatMap((plan) => plan.queryReach));
      this.rotate(k, plans.flatMap((plan) => plan.sourceReach));
    }
    const silenced = new Set();
    for (const [l, head] of options.knockedOut ?? []) if (l === layer) silenced.add(head);
    const context = new Float32Array(rows * C);
    let row = 0, from = 0;
    for (const { cache, queryReach, sourceReach, slot } of plans) {
      const kept = cache.layers[layer];
      kept.key.set(k.subarray(from * C, (from + sourceReach.length) * C), slot * C);
      kept.value.set(v.subarray(from * C, (from + sourceReach.length) * C), slot * C);
      kept.reach.set(sourceReach, slot);
      if (sourceReach.length) kept.count = slot + sourceReach.length;
      from += sourceReach.length;
      const weights = options.record ? new Float32Array(nh * queryReach.length * kept.count) : null;
      const scores = new Float64Array(kept.count);
      queryReach.forEach((reach, i) => {
        let visible = kept.count;
        if (config.causal !== false) while (visible && kept.reach[visible - 1] > reach) visible--;
        for (let head = 0; head < nh; head++) {
          const at = row * C + head * hs;
          let largest = -Infinity, total = 0;
          for (let j = 0; j < visible; j++) {
            scores[j] = scale * dot(q, at, kept.key, j * C + head * hs, hs);
            if (scores[j] > largest) largest = scores[j];
          }
          for (let j = 0; j < visible; j++) total += scores[j] = Math.exp(scores[j] - largest);
          for (let j = 0; j < visible; j++) {
            const weight = scores[j] / total, from = j * C + head * hs;
            if (weights) weights[(head * queryReach.length + i) * kept.count + j] = weight;
            if (silenced.has(head)) continue;
            for (let c = 0; c < hs; c++) context[at + c] += weight * kept.value[from + c];
          }
        }
        row++;
      });
      if (weights) {
        const nQuery = queryReach.length, nKey = kept.count;
        options.attention[layer] = { weights, nHead: nh, nQuery, nKey };
      }
    }
    return linear(context, rows, proj.weight, proj.bias, C, C);
  }

  /**
   * Pre-norm Transformer block: x + attention(norm x), then x + MLP(norm x); over `source`
   * where there is one.
   */
  block(layer, x, source, plans, options) {
    const isSkipped = options.knockedOut?.some(([l, head]) => l === layer && head === undefined);
    if (isSkipped && !options.record) return x;
    const { ln1, ln2, lnSource, up, down } = this.blocks[layer];
    const { C } = this, rows = x.length / C;
    const normed = layerNorm(x, ln1);
    const read = source ? layerNorm(source, lnSource) : normed;
    const attended = this.attention(layer, normed, read, plans, options);
    if (isSkipped) return x; // its weights are recorded, nothing else of it counts
    const y = x.map((value, i) => value + attended[i]);
    const hidden = linear(layerNorm(y, ln2), rows, up.weight, up.bias, C, 4 * C);
    for (let i = 0; i < hidden.length; i++) hidden[i] = gelu(hidden[i]);
    const added = linear(hidden, rows, down.weight, down.bias, 4 * C, C);
    for (let i = 0; i < y.length; i++) y[i] += added[i];
    return y;
  }

  // -------------------------------------------------------------- the forward pass

  /**
   * Read new characters of one or several texts, each after what its cache holds, and predict the
   * next ones.
   *
   * @param {{cache: Cache, ids: number[]}[]} texts
   * @param {Options} options
   * @returns {Float32Array} logits (new characters of all texts, V); `options.attention` and
   *     `options.states` are filled if `options.record`
   */
  run(texts, options = {}) {
    const { C, V } = this;
    if (options.record) Object.assign(options, { attention: [], states: [] });
    const plans = texts.map(({ cache, ids }) => ({ cache, start: cache.length, n: ids.length }));
    let x = new Float32Array(texts.reduce((rows, { ids }) => rows + ids.length, 0) * C);
    let row = 0;
    for (const { cache, ids } of texts) {
      ids.forEach((id, i) => {
        const place = (cache.length + i) * C;
        for (let c = 0; c < C; c++) {
          x[row * C + c] = this.tokEmb[id * C + c] + (this.posEmb ? this.posEmb[place + c] : 0);
        }
        row++;
      });
    }
    if (this.latent) x = this.throughLatents(x, plans, options);
    else {
      for (const plan of plans) {
        plan.slot = plan.start;
        plan.queryReach = Array.from({ length: plan.n }, (_, i) => plan.start + i);
        plan.sourceReach = plan.queryReach;
      }
      this.atState(0, x, plans, options);
      for (let layer = 0; layer < this.blocks.length; layer++) {
        x = this.block(layer, x, null, plans, options);
        this.atState(layer + 1, x, plans, options);
      }
    }
    for (const { cache, n } of plans) cache.length += n;
    return this.unembed(x);
  }

  /** The last norm and the head, (rows, C) -> (rows, V). */
  unembed(x) {
    return linear(layerNorm(x, this.lnF), x.length / this.C, this.head, null, this.C, this.V);
  }

  /** Patch and record the residual stream between two blocks; state 0 is the embedding. */
  atState(state, x, plans, options) {
    for (const patch of options.patches ?? []) {
      let row = patch.position - plans[0].start;
      if (patch.state === state && row >= 0 && row < plans[0].n) x.set(patch.value, row * this.C);
    }
    options.states?.push(x.slice());
  }

  /**
   * The perceivers: down to the latents, through the middle blocks, up to the outputs.
   *
   * Latent j of perceiver_ar reads inputs 0 ... s (j + 1) - 1, latent j of perceiver inputs 0 ...
   * j. New characters change the latent that the first of them belongs to, and add those after it.
   */
  throughLatents(x, plans, options) {
    const { C, stride, nLatents } = this;
    const last = this.blocks.length - 1;
    const start = [], down = [], middle = [], up = [];
    let row = 0;
    for (const { cache, start: at, n } of plans) {
      const inputs = Array.from({ length: n }, (_, i) => at + i);
      const first = Math.min(Math.floor(at / stride), nLatents);
      const end = Math.min(Math.ceil((at + n) / stride), nLatents);
      const reach = [];
      for (let j = first; j < end; j++) reach.push(stride * (j + 1) - 1);
      reach.forEach((newest, i) => {
        const from = row + Math.min(newest, at + n - 1) - at; // the newest input of the latent
        start.push(this.latents ? rowOf(this.latents, first + i, C) : rowOf(x, from, C));
      });
      down.push({ cache, queryReach: reach, sourceReach: inputs, slot: at });
      middle.push({ cache, queryReach: reach, sourceReach: reach, slot: first });
      const withNull = this.null && at === 0; // slot 0 of the last block holds the null latent
      up.push({ cache, queryReach: inputs, sourceReach: withNull ? [-1, ...reach] : reach,
        slot: this.null && !withNull ? first + 1 : first });
      row += n;
    }
    let z = this.block(0, concatenate(start, C), x, down, options);
    for (let layer = 1; layer < last; layer++) z = this.block(layer, z, null, middle, options);
    const sources = [];
    let latent = 0;
    up.forEach(({ sourceReach }) => sourceReach.forEach((reach) => {
      sources.push(reach < 0 ? this.null : z.subarray(latent * C, (latent + 1) * C));
      latent += reach < 0 ? 0 : 1;
    }));
    if (this.local) x = this.addNewest(x, plans);
    return this.block(last, x, concatenate(sources, C), up, options);
  }

  /**
   * x[t] + the sum over k = 1 ... s - 2 of local[k - 1] * x[t - k]: inputs that no legal latent
   * holds yet.
   */
  addNewest(x, plans) {
    const { C, local } = this, y = x.slice();
    let row = 0;
    for (const { cache, start, n } of plans) {
      cache.inputs.set(x.subarray(row * C, (row + n) * C), start * C);
      for (let t = start; t < start + n; t++, row++) {
        for (let k = 1; k * C <= local.length && k <= t; k++) {
          const weight = (k - 1) * C, earlier = (t - k) * C;
          for (let c = 0; c < C; c++) {
            y[row * C + c] += local[weight + c] * cache.inputs[earlier + c];
          }
        }
      }
    }
    return y;
  }

  /**
   * One forward pass over a text.
   *
   * @param {string} text
   * @param {Options} options
   * @returns {{ids: number[], logits: Float32Array, attention?: Object[], states?:
   *     Float32Array[]}} logits (T, V); attention per layer {weights (nh, T_query, T_key), nHead,
   *     nQuery, nKey}; states n_layer + 1 times (T, C)
   */
  forward(text, options = {}) {
    const ids = this.checkLength(this.encode(text));
    const given = { ...options };
    const logits = this.run([{ cache: new Cache(this), ids }], given);
    return { ids, logits, attention: given.attention, states: given.states };
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
   * @returns {{ids: number[], answer: string, probability: number, attention?: Object[],
   *     states?: Float32Array[]}} ids of the text; the probability is that of all new characters
   *     and the end; the rest is as in `forward`
   */
  continueText(text, options = {}) {
    this.checkCausal();
    const ids = this.checkLength(this.encode(text)), answer = [], given = { ...options };
    let { cache, logits } = this.readPrompt(ids, given), logProbability = 0;
    while (true) {
      const id = argmax(logits, 0, this.V), step = logSoftmax(logits, 0, this.V);
      logProbability += id < 2 ? logEnd(step) : step[id];
      if (id < 2) break; // ⁇ or □ ends the answer
      answer.push(id);
      if (cache.length === this.config.block_size) break;
      logits = this.run([{ cache, ids: [id] }], { ...options, record: false });
    }
    const { attention, states } = given, probability = Math.exp(logProbability);
    return { ids, answer: this.decode(answer), probability, attention, states };
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

  /** Probability of these characters at the masks of a text, each on its own. */
  fillProbability(text, answer, options = {}) {
    const { ids, logits } = this.forward(text, options), letters = this.encode(answer);
    const masks = ids.flatMap((id, t) => (id === MASK_ID ? [t] : []));
    const steps = masks.map((t) => logSoftmax(logits, t * this.V, this.V));
    return Math.exp(steps.reduce((sum, step, i) => sum + step[letters[i]], 0));
  }

  /**
   * Probability that the model writes exactly `answer` after `text`, and then ends; for an encoder,
   * that the masks of `text` hold it.
   * @returns {number}
   */
  probability(text, answer, options = {}) {
    if (this.config.causal === false) return this.fillProbability(text, answer, options);
    const before = this.encode(text), ids = this.checkLength([...before, ...this.encode(answer)]);
    const logits = this.run([{ cache: new Cache(this), ids }], options);
    let total = 0;
    for (let row = before.length - 1; row < ids.length; row++) {
      const step = logSoftmax(logits, row * this.V, this.V);
      total += row + 1 < ids.length ? step[ids[row + 1]] : logEnd(step);
    }
    return Math.exp(total);
  }

  /**
   * The likeliest whole answers that a beam search of that width finds, best first (Graves 2012,
   * section 2.4.2).
   *
   * One place of the beam belongs to the greedy answer, as in `kt_core.beam.beam_search`.
   * @returns {{answer: string, probability: number}[]} the probability is that of all
   *     characters and the end
   */
  topAnswers(question, width = 5, options = {}, maxNew = 40) {
    this.checkCausal();
    const { V } = this, prompt = this.encodeQuestion(question);
    const mostSteps = Math.min(this.config.block_size - prompt.length + 1, maxNew);
    let { cache, logits } = this.readPrompt(prompt, options);
    let living = [{ ids: [], logProbability: 0, cache }]; // the greedy one first
    let found = [], greedyLives = true;
    for (let n = 0; n < mostSteps; n++) {
      const choices = []; // every continuation by every character; id V stands for the end
      let greedy = null;
      living.forEach(({ logProbability }, row) => {
        const step = logSoftmax(logits, row * V, V), likeliest = argmax(step, 0, V);
        for (let id = 2; id <= V; id++) {
          const added = id === V ? logEnd(step) : step[id];
          choices.push({ row, id, logProbability: logProbability + added });
        }
        if (row === 0 && greedyLives) greedy = choices[likeliest < 2 ? V - 2 : likeliest - 2];
      });
      choices.sort((a, b) => b.logProbability - a.logProbability);
      const chosen = (greedy ? [greedy, ...choices.filter((choice) => choice !== greedy)] : choices)
        .slice(0, width).filter(({ logProbability }) => logProbability > -Infinity);
      greedyLives &&= greedy.id !== V;
      for (const { row, id, logProbability } of chosen) {
        if (id === V) found.push({ ids: living[row].ids, logProbability });
      }
      found = found.sort((a, b) => b.logProbability - a.logProbability).slice(0, width);
      const parents = living, handedOn = new Set(); // a first child takes its parent's cache
      living = chosen.filter(({ id }) => id !== V).map(({ row, id, logProbability }) => ({
        ids: [...parents[row].ids, id], logProbability, row,
      }));
      if (!living.length || n + 1 === mostSteps) break;
      const most = Math.max(...living.map((one) => one.logProbability)); // longer is less likely
      if (found.length === width && !greedyLives && most <= found[width - 1].logProbability) {
        living = [];
        break;
      }
      for (const one of living) {
        const parent = parents[one.row];
        one.cache = handedOn.has(parent) ? parent.cache.clone() : parent.cache;
        handedOn.add(parent);
      }
      logits = this.run(living.map(({ ids, cache }) => ({ cache, ids: ids.slice(-1) })), options);
    }
    return [...found, ...living].sort((a, b) => b.logProbability - a.logProbability).slice(0, width)
      .map((one) => ({ answer: this.decode(one.ids), probability: Math.exp(one.logProbability) }));
  }

  /**
   * Read a prompt. What it has in common with the beginning of the previous one is not read again:
   * who types a name changes the end of the text.
   *
   * @returns {{cache: Cache, logits: Float32Array}} logits (V,) of the next character
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
    return { cache, logits: this.lastRow(this.run([{ cache, ids: ids.slice(known) }], options)) };
  }

  lastRow(logits) {
    return logits.slice(-this.V);
  }

  checkCausal() {
    if (this.config.causal !== false) return;
    throw new Error("This model reads in both directions; it does not write answers.");
  }

  // -------------------------------------------------------------- looking inside

  /**
   * Logit lens: what each residual stream would predict if the final norm and head came right after
   * it.
   *
   * @returns {{ids: number[], shares: Float32Array[]}} n_layer + 1 times (T, V) probabilities
   *     (nostalgebraist 2020)
   */
  lens(text, options = {}) {
    this.checkTraceable();
    const { ids, states } = this.forward(text, { ...options, record: true });
    return { ids, shares: states.map((state) => softmaxRows(this.unembed(state), this.V)) };
  }

  /**
   * Activation patching: read `text`, with some residual streams replaced by those of `source`.
   *
   * @param {[number, number][]} places [state, position] each; state 0 is the embedding, state
   *     l + 1 follows block l
   * @returns {Patch[]} to hand to `forward`, `answer` or `topAnswers` as `options.patches`
   */
  patchesFrom(source, places, options = {}) {
    this.checkTraceable();
    const { ids, states } = this.forward(source, { ...options, record: true });
    return places.map(([state, position]) => {
      if (!states[state] || !(position >= 0 && position < ids.length)) {
        throw new Error(`There is no state ${state} at position ${position} of ${ids.length}.`);
      }
      return { state, position, value: rowOf(states[state], position, this.C) };
    });
  }

  /**
   * Activation patching at every place, one after the other (Meng et al. 2022, section 2.1).
   *
   * A generator, so that a page can draw between the steps: a patch changes nothing before its
   * position, so each step keeps the cache up to there and reads on from it.
   * @param {string} text what the model reads, up to the mask ⁇
   * @param {string} source the text of the same length that the states come from
   * @param {string} answer whose probability after the text is followed
   * @param {number} window positions replaced together, with the named one in the middle: 1, 3 ...
   * @yields {{state: number, position: number, probability: number, shares: Float32Array}}
   *     probability of all characters of the answer, and of each next character after ⁇, (V,)
   */
  *patchEverywhere(text, source, answer, window = 1, options = {}) {
    this.checkTraceable();
    const { C, V } = this, reach = (window - 1) / 2, T = this.encode(text).length;
    const ids = this.checkLength(this.encode(text + answer));
    const clean = this.forward(source + answer, { ...options, record: true });
    if (clean.ids.length !== ids.length) throw new Error("Both texts need the same length.");
    const cache = new Cache(this), read = { ...options, record: true };
    const outcome = (logits) => {
      const shares = softmaxRows(logits.subarray(logits.length - (ids.length - T + 1) * V), V);
      let probability = 1;
      for (let i = T; i < ids.length; i++) probability *= shares[(i - T) * V + ids[i]];
      return { probability, shares: shares.subarray(0, V) };
    };
    const untouched = outcome(this.run([{ cache, ids }], read));
    const differs = (state, position) => {
      const a = rowOf(clean.states[state], position, C), b = rowOf(read.states[state], position, C);
      return a.some((value, c) => Math.abs(value - b[c]) > 1e-5);
    };
    for (let position = T - 1; position >= 0; position--) {
      const first = Math.max(position - reach, 0), last = Math.min(position + reach, T - 1);
      const places = Array.from({ length: last - first + 1 }, (_, i) => first + i);
      for (let state = 0; state <= this.blocks.length; state++) {
        let found = untouched; // what both texts have in common changes nothing
        if (places.some((place) => differs(state, place))) {
          const patches = places.map((place) => (
            { state, position: place, value: rowOf(clean.states[state], place, C) }));
          const rest = [{ cache: cache.truncate(first), ids: ids.slice(first) }];
          found = outcome(this.run(rest, { ...options, patches }));
        }
        yield { state, position, ...found };
      }
    }
  }

  /**
   * What the rows and columns of a layer's attention stand for, after reading T characters.
   *
   * @returns {{queries: Unit[], keys: Unit[]}} a Unit {name, from, to} covers the characters
   *     from ... to - 1; a latent has those that it adds to the latent before it, the null latent
   *     none
   */
  axes(layer, T) {
    const characters = Array.from({ length: T }, (_, t) => (
      { name: "character", from: t, to: t + 1 }));
    if (!this.latent) return { queries: characters, keys: characters };
    const length = Math.min(Math.ceil(T / this.stride), this.nLatents);
    const latents = Array.from({ length }, (_, j) => (
      { name: `latent ${j}`, from: j * this.stride, to: Math.min((j + 1) * this.stride, T) }));
    if (layer === 0) return { queries: latents, keys: characters };
    if (layer < this.blocks.length - 1) return { queries: latents, keys: latents };
    if (this.null) latents.unshift({ name: "null latent", from: 0, to: 0 });
    return { queries: characters, keys: latents };
  }

  checkTraceable() {
    if (this.latent) {
      const { variant } = this.config;
      throw new Error(`The middle layers of ${variant} hold latents: choose vanilla or rope.`);
    }
  }
}

/** Row number `row` of (rows, C), a view. @returns {Float32Array} (C,) */
const rowOf = (x, row, C) => x.subarray(row * C, (row + 1) * C);

/** Logarithm of the probability that a text ends, by □ or ⁇. @param {Float64Array} step (V,) */
const logEnd = (step) => Math.log(Math.exp(step[0]) + Math.exp(step[1]));

/** Rows of C numbers, one after the other in one array. */
function concatenate(rows, C) {
  const joined = new Float32Array(rows.length * C);
  rows.forEach((row, i) => joined.set(row, i * C));
  return joined;
}

/**
 * The weights of a model as text in a page; `packed_models.weights_text` writes it.
 *
 * All second bytes of the 16-bit floats come before all first ones: sign, exponent and leading bits
 * repeat, and compress well when they stand together. Then deflate, then base 85 (RFC 1924).
 */

const DIGITS =
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

/** @param {string} text base 85, as Python's base64.b85encode writes it @returns {Uint8Array} */
function decodeBase85(text) {
  const digits = new Uint8Array(128);
  for (let i = 0; i < 85; i++) digits[DIGITS.charCodeAt(i)] = i;
  const nMissing = (5 - (text.length % 5)) % 5;
  const padded = text + "~".repeat(nMissing); // 5 digits stand for 4 bytes
  const bytes = new Uint8Array((padded.length / 5) * 4), view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < padded.length; at += 4) {
    let value = 0;
    for (const end = i + 5; i < end; i++) value = value * 85 + digits[padded.charCodeAt(i)];
    view.setUint32(at, value);
  }
  return bytes.subarray(0, bytes.length - nMissing);
}

/** @returns {Promise<ArrayBuffer>} the safetensors file that `text` holds */
export async function unpackWeights(text) {
  const packed = new Blob([decodeBase85(text)]).stream();
  const stream = packed.pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const bytes = new Uint8Array(planes.length), nSecond = planes.length >> 1;
  for (let i = 0; i < nSecond; i++) bytes[2 * i + 1] = planes[i];
  for (let i = nSecond; i < planes.length; i++) bytes[2 * (i - nSecond)] = planes[i];
  return bytes.buffer;
}

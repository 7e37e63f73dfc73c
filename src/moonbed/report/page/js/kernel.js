// The arithmetic of networks and laws, on a memory of its own: in WebAssembly with vectors of 128 bits (kernel.c), or
// in plain JavaScript where a browser lacks them. Both take the same byte addresses in the same layout:
//
// - a tile register holds TILE points column by column, TILE floats a column;
// - a register of one row is a vector, padded to a multiple of four;
// - weights (m, k) of a linear layer lie in groups of four outputs, [m/4][k][4], padded with zeros.

import { erf } from "./special.js";

/** Points a tile. */
export const TILE = 64;

/** Functions of one number; `a` are an instruction's attributes. */
export const UNARY = {
  neg: (x) => -x,
  exp: Math.exp,
  log: Math.log,
  sin: Math.sin,
  cos: Math.cos,
  atan: Math.atan,
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  relu: (x) => Math.max(x, 0),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  erf,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  reciprocal: (x) => 1 / x,
  abs: Math.abs,
  square: (x) => x * x,
  step: (x) => (x > 0 ? 1 : 0),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  selu: (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  leaky_relu: (x, a) => (x > 0 ? x : a.slope * x),
};

/** Functions of two numbers. */
export const BINARY = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  pow: (a, b) => a ** b,
  maximum: (a, b) => Math.max(a, b),
  minimum: (a, b) => Math.min(a, b),
};

/** Bytes up to the next multiple of 16. */
function aligned(bytes) {
  return (bytes + 15) & ~15;
}

/** What both kernels share: memory that grows, and the functions that need no vectors. */
class BaseKernel {
  /** The address of `bytes` new bytes, zero. Views are to be taken anew after it. */
  alloc(bytes) {
    const address = this.top;
    this.top += aligned(bytes);
    if (this.top > this.buffer.byteLength) this.grow(this.top);
    return address;
  }

  /** All memory as floats. */
  get floats() {
    if (!this.floatView || this.floatView.buffer !== this.buffer) this.floatView = new Float32Array(this.buffer);
    return this.floatView;
  }

  /** `length` doubles at an address. */
  doubles(address, length) {
    return new Float64Array(this.buffer, address, length);
  }

  unary(name, out, a, n, attributes) {
    if (!UNARY[name]) throw new Error(`no operation ${name}`);
    const f = UNARY[name];
    const x = this.floats;
    for (let i = 0; i < n; i++) x[(out >> 2) + i] = f(x[(a >> 2) + i], attributes);
  }

  /** out = p op q for `columns` columns of n floats; see BETWEEN in kernel.c. */
  binary(name, out, p, pStep, pWide, q, qStep, qWide, n, columns) {
    const f = BINARY[name];
    const x = this.floats;
    for (let j = 0; j < columns; j++) {
      const [o, a, b] = [(out >> 2) + j * n, (p >> 2) + j * pStep, (q >> 2) + j * qStep];
      for (let i = 0; i < n; i++) x[o + i] = f(x[a + i * pWide], x[b + i * qWide]);
    }
  }

  /** out = p where c is not 0, else q; columns and steps as those of `binary`. */
  where(out, c, cStep, cWide, p, pStep, pWide, q, qStep, qWide, n, columns) {
    const x = this.floats;
    for (let j = 0; j < columns; j++) {
      const [o, f] = [(out >> 2) + j * n, (c >> 2) + j * cStep];
      const [a, b] = [(p >> 2) + j * pStep, (q >> 2) + j * qStep];
      for (let i = 0; i < n; i++) x[o + i] = x[f + i * cWide] !== 0 ? x[a + i * pWide] : x[b + i * qWide];
    }
  }

  /** Sum of `columns` numbers, `stride` floats apart, for each of `rows` points, times `scale`. */
  sum(out, a, rows, stride, columns, scale) {
    const x = this.floats;
    for (let r = 0; r < rows; r++) {
      let s = 0;
      for (let j = 0; j < columns; j++) s += x[(a >> 2) + j * stride + r];
      x[(out >> 2) + r] = s * scale;
    }
  }

  /** Standardisation over the columns, then weight and bias of one row (address 0: none). */
  layerNorm(out, a, w, b, rows, stride, columns, eps) {
    const x = this.floats;
    for (let r = 0; r < rows; r++) {
      let mean = 0;
      let variance = 0;
      for (let j = 0; j < columns; j++) mean += x[(a >> 2) + j * stride + r] / columns;
      for (let j = 0; j < columns; j++) variance += (x[(a >> 2) + j * stride + r] - mean) ** 2 / columns;
      const scale = 1 / Math.sqrt(variance + eps);
      for (let j = 0; j < columns; j++) {
        const y = (x[(a >> 2) + j * stride + r] - mean) * scale;
        x[(out >> 2) + j * stride + r] = (w ? x[(w >> 2) + j] : 1) * y + (b ? x[(b >> 2) + j] : 0);
      }
    }
  }
}

/** Plain JavaScript; sums of linear layers are of double precision. */
export class PlainKernel extends BaseKernel {
  constructor() {
    super();
    this.simd = false;
    this.buffer = new ArrayBuffer(1 << 16);
    this.top = 16;
  }

  grow(size) {
    const grown = new ArrayBuffer(Math.max(size, 2 * this.buffer.byteLength));
    new Uint8Array(grown).set(new Uint8Array(this.buffer));
    this.buffer = grown;
  }

  linear(out, a, w, b, rows, k, m) {
    const x = this.floats;
    const stride = rows === 1 ? 1 : rows;
    for (let j = 0; j < m; j += 4) {
      const weights = (w >> 2) + j * k;
      const count = Math.min(4, m - j);
      for (let r = 0; r < rows; r++) {
        let [s0, s1, s2, s3] = [0, 0, 0, 0];
        for (let i = 0, p = (a >> 2) + r, q = weights; i < k; i++, p += stride, q += 4) {
          const v = x[p];
          s0 += v * x[q];
          s1 += v * x[q + 1];
          s2 += v * x[q + 2];
          s3 += v * x[q + 3];
        }
        const sums = [s0, s1, s2, s3];
        for (let o = 0; o < count; o++) x[(out >> 2) + (j + o) * stride + r] = sums[o] + (b ? x[(b >> 2) + j + o] : 0);
      }
    }
  }

  mixture(mean, total, top, points, n, dim, count, bias, c, h, m, g, joint) {
    const x = new Float64Array(this.buffer);
    [mean, total, top, points] = [mean, total, top, points].map((address) => address / 8);
    [bias, c, h, m, g, joint] = [bias, c, h, m, g, joint].map((address) => address / 8);
    for (let i = 0; i < n; i++) {
      let most = -Infinity;
      for (let k = 0; k < count; k++) {
        let s = x[bias + k];
        for (let d = 0; d < dim; d++) {
          const off = x[points + i * dim + d] - x[c + d * count + k];
          s += off * off * x[h + d * count + k];
        }
        x[joint + k] = s;
        if (s > most) most = s;
      }
      let sum = 0;
      for (let k = 0; k < count; k++) sum += x[joint + k] = Math.exp(x[joint + k] - most);
      x[top + i] = most;
      x[total + i] = sum;
      for (let d = 0; d < dim; d++) {
        let [level, slope] = [0, 0];
        for (let k = 0; k < count; k++) {
          level += x[joint + k] * x[m + d * count + k];
          slope += x[joint + k] * x[g + d * count + k];
        }
        x[mean + i * dim + d] = (level + x[points + i * dim + d] * slope) / sum;
      }
    }
  }
}

/** WebAssembly with vectors. */
export class VectorKernel extends BaseKernel {
  /** `wasm`: the bytes of kernel.wasm, or the compiled module. */
  constructor(wasm) {
    super();
    this.simd = true;
    this.memory = new WebAssembly.Memory({ initial: 4 });
    const module = wasm instanceof WebAssembly.Module ? wasm : new WebAssembly.Module(wasm);
    this.code = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports;
    const rows = this.code.tile_rows();
    if (rows !== TILE) throw new Error(`the kernel's tiles should have ${TILE} rows, they have ${rows}`);
    this.top = aligned(this.code.heap_base());
    this.mixture = this.code.mixture;
  }

  get buffer() {
    return this.memory.buffer;
  }

  grow(size) {
    this.memory.grow(Math.ceil((size - this.buffer.byteLength) / 65536) + 4);
  }

  linear(out, a, w, b, rows, k, m) {
    if (rows === 1) this.code.linear_row(out, a, w, b, k, m);
    else this.code.linear(out, a, w, b, k, m);
  }

  unary(name, out, a, n, attributes) {
    const f = this.code[name];
    if (f && name in UNARY) f(out, a, n);
    else super.unary(name, out, a, n, attributes);
  }

  binary(name, out, p, pStep, pWide, q, qStep, qWide, n, columns) {
    const f = this.code[`${name}_columns`];
    if (f) f(out, p, pStep, pWide, q, qStep, qWide, n, columns);
    else super.binary(name, out, p, pStep, pWide, q, qStep, qWide, n, columns);
  }

  sum(out, a, rows, stride, columns, scale) {
    if (rows === TILE) this.code.sum_columns(out, a, columns, scale);
    else super.sum(out, a, rows, stride, columns, scale);
  }

  layerNorm(out, a, w, b, rows, stride, columns, eps) {
    if (rows === TILE) this.code.layer_norm(out, a, w, b, columns, eps);
    else super.layerNorm(out, a, w, b, rows, stride, columns, eps);
  }
}

/** The fastest kernel that there is: vectors if `wasm` is given and the browser takes it. */
export function openKernel(wasm) {
  if (wasm && typeof WebAssembly === "object") {
    try {
      return new VectorKernel(wasm);
    } catch (error) {
      console.info(`plain JavaScript instead of WebAssembly: ${error.message}`);
    }
  }
  return new PlainKernel();
}

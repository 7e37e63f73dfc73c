// A network as a list of operations on registers, recorded in Python (a tape), run here on tiles of points.
//
// The head depends on the noise level alone and runs once an evaluation, the body once a tile. Registers of the body
// share memory where one is used for the last time before another is written, so that the work stays in the cache.

import { arrayView } from "./codec.js";
import { BINARY, TILE, UNARY } from "./kernel.js";

/** Numbers of a register as it lies in memory: `rows` is 1 or TILE. */
function registerFloats([rows, columns]) {
  return rows === 1 ? (columns + 3) & ~3 : TILE * columns;
}

/** How an operand steps where the result has `rows` rows: [floats a column, 1 or 0: a number a row or one for all]. */
function strides([ownRows, columns], rows) {
  if (rows === 1) return [0, columns > 1 ? 1 : 0]; // one column of all numbers
  return [columns === 1 ? 0 : ownRows, ownRows > 1 ? 1 : 0];
}

/** A network F(x, c_noise) in a kernel's memory. */
export class Program {
  constructor(tape, blob, kernel) {
    if (tape.tile !== TILE) throw new Error(`tapes have tiles of ${TILE} points, given ${tape.tile}`);
    this.kernel = kernel;
    this.tape = tape;
    this.columns = tape.columns;
    this.dim = tape.dim;
    this.shapes = tape.registers.map(([rows, columns]) => [rows, columns]);
    this.address = new Array(this.shapes.length).fill(0);
    this.weights = new Map();
    this.placeConstants(blob);
    this.placeHead();
    this.placeBody();
    const steps = (list) => list.map((instruction) => this.step(instruction));
    this.head = steps(tape.head);
    this.body = steps(tape.body);
  }

  placeConstants(blob) {
    const asWeights = new Set();
    const asValues = new Set([this.tape.out]);
    for (const [op, , inputs] of [...this.tape.head, ...this.tape.body]) {
      inputs.forEach((r, i) => (op === "linear" && i === 1 ? asWeights : asValues).add(r));
    }
    for (const [r, array] of this.tape.constants) {
      const values = arrayView(blob, array);
      if (asWeights.has(r)) this.weights.set(r, this.packWeights(values, this.shapes[r]));
      if (asValues.has(r)) this.placeValues(r, values);
    }
  }

  packWeights(values, [m, k]) {
    const address = this.kernel.alloc(4 * k * ((m + 3) & ~3));
    const x = this.kernel.floats;
    for (let j = 0; j < m; j++) {
      const group = (address >> 2) + (j & ~3) * k + (j & 3);
      for (let i = 0; i < k; i++) x[group + 4 * i] = values[j * k + i];
    }
    return address;
  }

  placeValues(r, values) {
    const [rows, columns] = this.shapes[r];
    if (rows !== 1 && rows !== TILE) throw new Error(`register ${r} has ${rows} rows, not 1 or ${TILE}`);
    this.address[r] = this.kernel.alloc(4 * registerFloats(this.shapes[r]));
    const at = this.address[r] >> 2;
    const x = this.kernel.floats;
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) x[at + j * rows + i] = values[i * columns + j];
  }

  placeHead() {
    for (const r of [this.tape.c_noise, ...this.tape.head.map((instruction) => instruction[1])]) this.placeAlone(r);
  }

  placeAlone(r) {
    this.address[r] = this.kernel.alloc(4 * registerFloats(this.shapes[r]));
  }

  /** Registers of the body, each in the memory of one that is no longer read. */
  placeBody() {
    const last = new Map([[this.tape.x, -1]]);
    this.tape.body.forEach(([, out, inputs], i) => [out, ...inputs].forEach((r) => last.set(r, i)));
    last.set(this.tape.out, Infinity);
    const free = new Map();
    const own = new Set([this.tape.x, ...this.tape.body.map((instruction) => instruction[1])]);
    this.placeAlone(this.tape.x);
    this.tape.body.forEach(([op, out, inputs], i) => {
      const size = registerFloats(this.shapes[out]);
      const release = () => {
        for (const r of new Set(inputs)) {
          if (own.has(r) && last.get(r) === i) {
            const floats = registerFloats(this.shapes[r]);
            free.set(floats, [...(free.get(floats) ?? []), this.address[r]]);
          }
        }
      };
      const inPlace = op in UNARY || op in BINARY;
      if (inPlace) release();
      const reused = free.get(size)?.pop();
      this.address[out] = reused ?? this.kernel.alloc(4 * size);
      if (!inPlace) release();
    });
  }

  /** The instruction as a function without arguments. */
  step([op, out, inputs, attributes]) {
    const { kernel } = this;
    const to = this.address[out];
    const [rows, columns] = this.shapes[out];
    const at = inputs.map((r) => (r < 0 ? 0 : this.address[r]));
    const shape = inputs.map((r) => (r < 0 ? null : this.shapes[r]));
    const size = registerFloats(this.shapes[out]);
    const [n, count] = rows === 1 ? [size, 1] : [TILE, columns];
    const operands = () => shape.map((own, i) => [at[i], ...strides(own, rows)]);
    if (op === "linear") {
      const weights = this.weights.get(inputs[1]);
      if (weights === undefined) throw new Error("the weights of a linear layer should be constants");
      const [m, k] = shape[1];
      if (shape[0][0] === rows) return () => kernel.linear(to, at[0], weights, at[2] ?? 0, rows, k, m);
    } else if (op in UNARY) {
      if (registerFloats(shape[0]) === size) return () => kernel.unary(op, to, at[0], size, attributes);
    } else if (op in BINARY) {
      const [p, q] = operands();
      return () => kernel.binary(op, to, ...p, ...q, n, count);
    } else if (op === "where") {
      const [c, p, q] = operands();
      return () => kernel.where(to, ...c, ...p, ...q, n, count);
    } else if (op === "sum" || op === "mean") {
      const [own, width] = shape[0];
      const scale = op === "sum" ? 1 : 1 / width;
      return () => kernel.sum(to, at[0], own, own, width, scale);
    } else if (op === "layer_norm") {
      return () => kernel.layerNorm(to, at[0], at[1] ?? 0, at[2] ?? 0, rows, rows, columns, attributes.eps);
    } else if (op === "copy") {
      return () => this.spread(to, 0, rows, columns, at[0], shape[0]);
    } else if (op === "slice") {
      const from = at[0] + 4 * attributes.start * rows;
      return () => this.spread(to, 0, rows, columns, from, [rows, columns]);
    } else if (op === "cat") {
      const starts = shape.map((_, i) => shape.slice(0, i).reduce((sum, part) => sum + part[1], 0));
      return () => shape.forEach((part, i) => this.spread(to, starts[i], rows, part[1], at[i], part));
    } else {
      throw new Error(`no operation ${op}`);
    }
    throw new Error(`${op} of registers ${inputs.join(", ")} does not fit register ${out}`);
  }

  /** Columns first, first + 1, ... of the register at `to`, from a register that may have one row or one column. */
  spread(to, first, rows, columns, from, [fromRows, fromColumns]) {
    const x = this.kernel.floats;
    const [a, b] = [(to >> 2) + first * rows, from >> 2];
    if (rows === fromRows && columns === fromColumns) {
      x.copyWithin(a, b, b + rows * columns);
      return;
    }
    for (let j = 0; j < columns; j++) {
      const source = b + (fromColumns === 1 ? 0 : j * fromRows);
      if (rows === fromRows) x.copyWithin(a + j * rows, source, source + rows);
      else x.fill(x[source], a + j * rows, a + (j + 1) * rows);
    }
  }

  /**
   * F for n points: x (n, dim) with `conditions` as further columns, the same for all; out (n, dim of F).
   * Numbers are rounded to single precision on their way in.
   */
  run(x, n, conditions, cNoise, out) {
    const { tape, kernel, dim } = this;
    const given = this.columns - conditions.length;
    const floats = kernel.floats;
    floats[this.address[tape.c_noise] >> 2] = cNoise;
    for (const step of this.head) step();
    const to = this.address[tape.x] >> 2;
    const from = this.address[tape.out] >> 2;
    const [outRows] = this.shapes[tape.out];
    for (let start = 0; start < n; start += TILE) {
      const count = Math.min(TILE, n - start);
      for (let j = 0; j < given; j++) {
        const column = to + j * TILE;
        for (let r = 0; r < count; r++) floats[column + r] = x[(start + r) * given + j];
        floats.fill(0, column + count, column + TILE);
      }
      conditions.forEach((value, j) => floats.fill(value, to + (given + j) * TILE, to + (given + j + 1) * TILE));
      for (const step of this.body) step();
      for (let r = 0; r < count; r++) {
        for (let j = 0; j < dim; j++) out[(start + r) * dim + j] = floats[from + (outRows === 1 ? j : j * TILE + r)];
      }
    }
    return out;
  }
}

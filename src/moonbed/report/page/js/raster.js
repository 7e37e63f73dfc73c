/**
 * Particles and their trails as pixels of one colour, coverage by coverage.
 *
 * Thousands of calls into a canvas cost a frame each where there is no graphics card (12 ms for 4,000 dots, measured);
 * stamping discs into an array and handing it over once costs a tenth. A disc is kept at PHASES² offsets within a pixel,
 * so that slow particles glide.
 */

import { channels } from "./ground.js";

const PHASES = 4;

export class Sheet {
  /** @param {number} size pixels a side */
  constructor(size) {
    this.size = size;
    this.image = new ImageData(size, size);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.rgb = 0;
    this.stamps = [];
    this.radius = 0;
  }

  /** Begin anew in a colour, with discs of a radius in pixels. */
  begin(colour, radius) {
    const [r, g, b] = channels(colour);
    this.rgb = (b << 16) | (g << 8) | r; // as bytes in memory on every machine of today: r, g, b, alpha
    this.pixels.fill(0);
    if (this.radius !== radius) {
      this.radius = radius;
      this.reach = Math.ceil(radius + 1);
      this.stamps = Array.from({ length: PHASES * PHASES }, (_, k) =>
        stamp(radius, this.reach, (k % PHASES) / PHASES, Math.floor(k / PHASES) / PHASES),
      );
    }
  }

  /** A disc around (x, y), in pixels. */
  dot(x, y) {
    const { size, reach, pixels, rgb } = this;
    const [i, j] = [Math.floor(x), Math.floor(y)];
    if (i < reach || j < reach || i + reach >= size || j + reach >= size) return;
    const phase = Math.floor((y - j) * PHASES) * PHASES + Math.floor((x - i) * PHASES);
    const cover = this.stamps[phase];
    const wide = 2 * reach + 1;
    for (let row = 0, k = 0; row < wide; row++) {
      let at = (j - reach + row) * size + i - reach;
      for (let column = 0; column < wide; column++, k++, at++) {
        if (cover[k]) pixels[at] = laid(pixels[at], cover[k], rgb);
      }
    }
  }

  /** A faint line through points [x, y, x, y, ...], in pixels. */
  thread(line, cover) {
    const { size, pixels, rgb } = this;
    for (let k = 2; k < line.length; k += 2) {
      const [x, y] = [line[k - 2], line[k - 1]];
      const [dx, dy] = [line[k] - x, line[k + 1] - y];
      const count = Math.min(Math.ceil(Math.max(Math.abs(dx), Math.abs(dy))), 2 * size);
      for (let s = 0; s < count; s++) {
        const [i, j] = [Math.floor(x + (dx * s) / count), Math.floor(y + (dy * s) / count)];
        if (i < 0 || j < 0 || i >= size || j >= size) continue;
        pixels[j * size + i] = laid(pixels[j * size + i], cover, rgb);
      }
    }
  }
}

/** A pixel of this colour with `cover` of 255 laid over what it has. */
function laid(pixel, cover, rgb) {
  const alpha = pixel >>> 24;
  return ((alpha + ((255 - alpha) * cover) / 255) << 24) | rgb;
}

/** Coverage of the pixels around a disc whose middle is at (dx, dy) in the middle pixel. */
function stamp(radius, reach, dx, dy) {
  const wide = 2 * reach + 1;
  const half = 0.5 / PHASES;
  return Uint8Array.from({ length: wide * wide }, (_, k) => {
    const [column, row] = [k % wide, Math.floor(k / wide)];
    const far = Math.hypot(column - reach + 0.5 - dx - half, row - reach + 0.5 - dy - half);
    return 225 * Math.min(Math.max(radius + 0.5 - far, 0), 1);
  });
}

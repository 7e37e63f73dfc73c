/**
 * One square of the picture: two canvases, the ground that changes with the noise level and the sky that changes every
 * frame. Drawing is in device pixels; places are u in [-reach, reach]², y upwards.
 */

import { Sheet } from "./raster.js";

const DENSEST = 2; // device pixels a CSS pixel: more costs time and shows nothing
const TRAIL = 70; // of 255, how much a trail covers

export class Stage {
  /** @param {HTMLElement} figure holds canvas.ground and canvas.sky */
  constructor(figure) {
    this.figure = figure;
    this.ground = figure.querySelector("canvas.ground");
    this.sky = figure.querySelector("canvas.sky");
    this.sheet = null;
    this.drawn = "";
  }

  /** Fit the canvases to their place; true if that cleared them. */
  fit() {
    const dense = Math.min(window.devicePixelRatio || 1, DENSEST);
    const size = Math.round(this.sky.clientWidth * dense);
    this.dense = dense;
    if (!size || this.sky.width === size) return false;
    for (const canvas of [this.ground, this.sky]) [canvas.width, canvas.height] = [size, size];
    this.drawn = "";
    return true;
  }

  /** Draw the ground once for each key. */
  lay(key, draw) {
    if (this.drawn === key) return;
    this.drawn = key;
    const context = this.ground.getContext("2d");
    context.clearRect(0, 0, this.ground.width, this.ground.height);
    draw(context, this.ground.width, this.dense);
  }

  clear() {
    this.sky.getContext("2d").clearRect(0, 0, this.sky.width, this.sky.height);
  }

  /** Particles u with their trails, polylines in u; whatever the sky held is gone. */
  particles(u, tails, reach, colour) {
    const size = this.sky.width;
    if (!size) return;
    if (!this.sheet || this.sheet.size !== size) this.sheet = new Sheet(size);
    const factor = size / (2 * reach);
    this.sheet.begin(colour, dotRadius(u.length / 2) * Math.sqrt((size * this.dense) / 440));
    for (const tail of tails) {
      const line = tail.map((value, k) => (k % 2 ? reach - value : value + reach) * factor);
      this.sheet.thread(line, TRAIL);
    }
    for (let i = 0; i < u.length; i += 2) this.sheet.dot((u[i] + reach) * factor, (reach - u[i + 1]) * factor);
    this.sky.getContext("2d").putImageData(this.sheet.image, 0, 0);
  }

  /** Polylines [x, y, x, y, ...] in one path. */
  lines(lines, reach, colour, width, opacity = 1) {
    const context = this.sky.getContext("2d");
    const factor = this.sky.width / (2 * reach);
    context.beginPath();
    for (const line of lines) {
      context.moveTo((line[0] + reach) * factor, (reach - line[1]) * factor);
      for (let k = 2; k < line.length; k += 2) {
        context.lineTo((line[k] + reach) * factor, (reach - line[k + 1]) * factor);
      }
    }
    context.globalAlpha = opacity;
    context.strokeStyle = colour;
    context.lineWidth = width * this.dense;
    context.lineJoin = "round";
    context.stroke();
    context.globalAlpha = 1;
  }

  /** A ring or a disc of a radius in CSS pixels. */
  disc([x, y], reach, radius, { fill, stroke }) {
    const context = this.sky.getContext("2d");
    const factor = this.sky.width / (2 * reach);
    context.beginPath();
    context.arc((x + reach) * factor, (reach - y) * factor, radius * this.dense, 0, 2 * Math.PI);
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    context.strokeStyle = stroke;
    context.lineWidth = 1.6 * this.dense;
    context.stroke();
  }

  /** The keyboard's cursor: a cross. */
  cross([x, y], reach, colour) {
    const arm = (9 / this.sky.clientWidth) * 2 * reach;
    this.lines([[x - arm, y, x + arm, y], [x, y - arm, x, y + arm]], reach, colour, 1.5); 
  }
}

function dotRadius(n) {
  return Math.min(Math.max(2.3 * (500 / n) ** 0.3, 1.05), 2.4);
}

/** The squares of the picture: how many there are, what each draws, and the words and numbers around it. */

import { Stage } from "./canvas.js";
import { arrange, squareWords } from "./panels.js";
import { alive } from "./menu.js";
import { counted, planWords, readings } from "./words.js";

const STRIDE = 0.06; // of the picture's half, a press of an arrow key on it

export class Squares {
  /** @param {HTMLElement} place; @param {HTMLTemplateElement} template; @param {import("./live.js").Live} panel */
  constructor(place, template, panel) {
    this.place = place;
    this.template = template;
    this.panel = panel;
    this.all = [];
    this.cursor = null;
  }

  /** As many squares as the state shows; squares that stay keep their canvases. */
  arrange(state, menu) {
    const wanted = arrange(state, menu);
    const { place } = this;
    while (this.all.length > wanted.length) this.all.pop().figure.remove();
    while (this.all.length < wanted.length) this.all.push(this.open());
    wanted.forEach((look, i) => Object.assign(this.all[i], look));
    place.dataset.count = wanted.length;
  }

  open() {
    const figure = this.template.content.firstElementChild.cloneNode(true);
    this.place.append(figure);
    const square = { figure, stage: new Stage(figure) };
    const sky = figure.querySelector("canvas.sky");
    sky.addEventListener("click", (event) => {
      const box = sky.getBoundingClientRect();
      const [right, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.panel.drop(square, [2 * right - 1, 1 - 2 * down]);
    });
    sky.addEventListener("blur", () => {
      this.cursor = null;
      this.panel.draw();
    });
    return square;
  }

  /** The square that holds a canvas. */
  of(canvas) {
    return this.all.find(({ figure }) => figure.contains(canvas));
  }

  /** Where the keyboard's cross is in a square, each coordinate in [-1, 1]. */
  cursorIn(square) {
    return this.cursor && this.cursor.square === square ? this.cursor.at : [0, 0];
  }

  /** Move the cross. */
  point(square, [dx, dy], times) {
    const [x, y] = this.cursorIn(square);
    const bounded = (value) => Math.min(Math.max(value, -1), 1);
    this.cursor = { square, at: [bounded(x + dx * STRIDE * times), bounded(y + dy * STRIDE * times)] };
    this.panel.draw();
  }

  /** Draw every ground anew the next time. */
  forget() {
    for (const { stage } of this.all) stage.drawn = "";
  }

  /** Draw all; `told`: the numbers too. */
  draw(told) {
    for (const square of this.all) this.drawOne(square, told);
  }

  drawOne({ figure, stage, slot, show }, told) {
    const { state, colours, scenery, source, player, tracks } = this.panel;
    const track = tracks[slot];
    stage.fit();
    stage.clear();
    if (told) nameSquare(figure, state, track, show);
    if (!track.picture) {
      const waits = track.busy || !track.model;
      const words = waits ? `Sampling ${counted(state.n)} particles` : "No samples are recorded.";
      say(figure.querySelector(".stage-note"), track.error || words);
      stage.lay("bare", () => {});
      return;
    }
    const { model, picture } = track;
    const { reach } = source.camera(model);
    const settled = !player.playing;
    const look = { view: state.view, show, slot, model, w: state.w, level: picture.level(state.t), colours, settled };
    say(figure.querySelector(".stage-note"), scenery.lay(stage, look));
    const tails = state.trails ? picture.tails(state.t) : [];
    if (!show) stage.particles(picture.at(state.t), tails, reach, colours.generated);
    if (show !== "exact" || model.kind === "exact") this.drawPaths(stage, track, reach);
    if (this.cursor && this.cursor.square.stage === stage) {
      const at = this.cursor.at.map((value) => value * reach);
      stage.cross(at, reach, colours.ink);
    }
  }

  drawPaths(stage, track, reach) {
    const { ink, bg, generated } = this.panel.colours;
    for (const path of track.paths) {
      stage.disc(path.drop, reach, 3.2, { fill: bg, stroke: ink });
      if (!path.picture) continue;
      stage.lines([path.picture.way(0, 1)], reach, ink, 1, 0.35);
      stage.lines([path.picture.way(0, this.panel.state.t)], reach, ink, 1.5);
      const now = path.picture.at(this.panel.state.t);
      stage.disc([now[0], now[1]], reach, 4.4, { fill: generated, stroke: ink });
    }
  }

  showProgress() {
    for (const { figure, slot } of this.all) {
      const track = this.panel.tracks[slot];
      const bar = figure.querySelector(".stage-progress");
      if (!track.busy && !bar.classList.contains("busy")) continue;
      bar.classList.toggle("busy", track.busy);
      bar.style.transform = `scaleX(${track.busy ? track.share : 0})`;
      figure.setAttribute("aria-busy", track.busy);
    }
  }
}

function nameSquare(figure, state, track, show) {
  const { model, plan, picture } = track;
  if (!model) return;
  const recorded = `${counted(picture ? picture.n : 0)} samples`;
  const what = show ? squareWords(state.view, show) : plan ? planWords(plan) : recorded;
  say(figure.querySelector(".stage-name"), model.label);
  say(figure.querySelector(".stage-what"), track.error || what);
  figure.querySelector("canvas.sky").setAttribute("aria-label", `${model.label}: ${what}`);
  const list = figure.querySelector(".stage-readings");
  const told = readings(state, track);
  while (list.children.length > told.length) list.lastChild.remove();
  told.forEach(([name, value], i) => {
    if (!list.children[i]) {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      list.append(row);
    }
    say(list.children[i].firstChild, name);
    say(list.children[i].lastChild, value);
  });
}

/** Set a text where it differs; an empty note is hidden. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (element.tagName === "P" && !element.classList.contains("unseen")) element.hidden = !text;
}

/** The live panel: a state, the squares that show it, and what the reader does to it. */

import { Camera } from "./camera.js";
import { Stage } from "./canvas.js";
import { Controls, limitWords } from "./controls.js";
import { ErrorChart, QualityChart } from "./curves.js";
import { Menu, OWN, alive } from "./menu.js";
import { arrange, squareWords } from "./panels.js";
import { Player } from "./player.js";
import { readFrame } from "./readings.js";
import { Scenery } from "./scenery.js";
import { cheaper, fromHash, settle, toHash } from "./state.js";
import { Track } from "./track.js";
import { counted, pictureWords, planWords, readings } from "./words.js";

const COLOURS = ["bg", "ink", "muted", "line", "accent", "target", "generated"];
const QUIET = 1200; // milliseconds without change before the words for a screen reader change
const BEAT = 80; // milliseconds between two changes of the numbers while time runs: faster cannot be read
const STEP = 0.02; // of the run, a press of an arrow key
const STRIDE = 0.06; // of the picture's half, a press of an arrow key on it

export class Live {
  /** @param {HTMLElement} root; @param {object} live the document; @param {ArrayBuffer} blob; @param {Client} client */
  constructor(root, live, blob, client) {
    this.root = root;
    this.menu = new Menu(live);
    this.cameras = new Map();
    const camera = (model) => this.cameraOf(live, blob, model);
    const source = { client, live, blob, camera, changed: () => this.draw(), progressed: () => this.showProgress() };
    this.source = source;
    this.tracks = { a: new Track(source), b: new Track(source) };
    this.scenery = new Scenery(source);
    this.error = new ErrorChart(this.part("live-error"), source);
    this.quality = new QualityChart(this.part("live-quality"), source);
    this.player = new Player((share) => this.move(share), (playing) => this.played(playing));
    this.controls = new Controls(root, this.menu, (change) => this.change(change));
    this.squares = [];
    this.cursor = null;
    this.colours = {};
    this.touched = false;
    this.told = 0;
    this.state = settle(fromHash(location.hash), this.menu);
    this.player.share = this.state.t;
    this.listen();
  }

  part(id) {
    return this.root.querySelector(`#${id}`);
  }

  cameraOf(live, blob, model) {
    const key = live.laws[model.law] && live.laws[model.law].kind !== "none" ? model.law : `model ${model.index}`;
    if (!this.cameras.has(key)) this.cameras.set(key, new Camera(readFrame(live, blob, model)));
    return this.cameras.get(key);
  }

  listen() {
    const { root, player } = this;
    this.part("live-play").addEventListener("click", () => player.toggle());
    const time = this.part("live-time");
    time.addEventListener("input", () => this.scrub(Number(time.value)));
    time.addEventListener("change", () => this.save());
    this.part("live-redraw").addEventListener("click", () => this.change({ seed: (this.state.seed + 1) % 2 ** 31 }));
    this.part("live-clear").addEventListener("click", () => this.change({ drops: [] }));
    this.part("live-copy").addEventListener("click", () => this.copy());
    root.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => {
      const given = fromHash(location.hash);
      if (Object.keys(given).length) this.set(given);
    });
    document.addEventListener("moonbed:theme", () => this.paint());
    new ResizeObserver(() => {
      this.quality.fit();
      this.draw();
    }).observe(this.part("live-stages"));
  }

  /** Show the panel; play once, unless the reader wants no motion or came to a certain view. */
  start() {
    this.root.hidden = false;
    const arrived = Object.keys(fromHash(location.hash)).length > 0;
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.opening = !arrived && !still && alive(this.menu.model(this.state.model));
    this.paint();
    this.refresh();
  }

  /** The reader changed something: take it over and remember it in the address. */
  change(given) {
    this.touched = true;
    this.opening = false;
    this.set(given);
    this.save();
  }

  /** Merge a partial state; what is not valid is ignored. Used by the controls, the address, and window.moonbed. */
  set(given) {
    const before = this.state;
    this.state = settle(given, this.menu, before);
    if (this.state.t !== this.player.share) this.player.share = this.state.t;
    if (this.state.view !== "density") this.scenery.rest();
    this.refresh();
    return this.state;
  }

  save() {
    clearTimeout(this.saving);
    this.touched = true;
    this.saving = setTimeout(() => history.replaceState(null, "", `#${toHash(this.state)}`), 250);
  }

  /** Aim tracks, form and charts at the state, then draw. */
  refresh() {
    const { state, menu, tracks } = this;
    const model = menu.model(state.model);
    const plan = menu.plan(model, state.sampler, state.steps);
    const other = this.second();
    tracks.a.aim(model, alive(model) ? plan : null, state);
    if (other) tracks.b.aim(other, menu.counterpart(other, plan), state);
    this.controls.show(state);
    this.note(model, plan);
    const known = (m) => this.scenery.known(m) || this.isKnown(m);
    this.quality.aim(model, alive(model) ? plan : null, state, known);
    this.arrange();
    this.draw();
  }

  /** The model beside, or undefined. */
  second() {
    return alive(this.menu.model(this.state.model)) ? this.menu.model(this.state.beside) : undefined;
  }

  isKnown(model) {
    const law = this.source.live.laws[model.law];
    return Boolean(law) && law.kind !== "none" && model.levels !== null;
  }

  note(model, plan) {
    const note = this.part("live-note");
    const cheap = alive(model) && cheaper(this.menu, model, this.state.n);
    const spared = cheap && this.state.sampler !== OWN && plan.id === cheap.id && !this.touched;
    const told = spared ? `Its own sampler, ${model.plans[0].text}, takes longer in a page: here it starts with ${plan.text}.` : "";
    const field = this.state.view === "field" ? "Arrows show the flow that all particles follow; their length is the root of its speed." : "";
    note.textContent = [limitWords(model), told, field].filter(Boolean).join(" ");
    note.hidden = !note.textContent;
  }

  /** As many squares as the state shows; squares that stay keep their canvases. */
  arrange() {
    const wanted = arrange(this.state, this.menu);
    const place = this.part("live-stages");
    while (this.squares.length > wanted.length) this.squares.pop().figure.remove();
    while (this.squares.length < wanted.length) this.squares.push(this.square(place));
    wanted.forEach((look, i) => Object.assign(this.squares[i], look));
    place.dataset.count = wanted.length;
  }

  square(place) {
    const figure = this.part("live-stage").content.firstElementChild.cloneNode(true);
    place.append(figure);
    const square = { figure, stage: new Stage(figure) };
    const sky = figure.querySelector("canvas.sky");
    sky.addEventListener("click", (event) => {
      const box = sky.getBoundingClientRect();
      this.drop(square, [(2 * (event.clientX - box.left)) / box.width - 1, 1 - (2 * (event.clientY - box.top)) / box.height]);
    });
    sky.addEventListener("blur", () => {
      this.cursor = null;
      this.draw();
    });
    return square;
  }

  /** Drop a particle at a place of the square, each coordinate in [-1, 1]; its path begins there, at the noise end. */
  drop(square, [x, y]) {
    const { model } = this.tracks[square.slot];
    if (!model || !alive(model) || model.dim !== 2) return;
    const { reach } = this.source.camera(model);
    const place = [x, y].map((value) => Number((value * reach).toFixed(2)));
    this.change({ drops: [...this.state.drops, place] });
  }

  key(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
    if (target.matches("canvas.sky")) {
      const square = this.squares.find((candidate) => candidate.figure.contains(target));
      if (arrow) this.point(square, arrow, event.shiftKey ? 4 : 1);
      else if (key === "Enter") this.drop(square, this.cursor ? this.cursor.at : [0, 0]);
      else if (key === " ") this.player.toggle();
      else return;
    } else if (key === " " && !target.matches("button, input:not([type=range]), select, summary")) this.player.toggle();
    else if (arrow && arrow[0] && target.matches("#live-time, .live-transport *, .live-scene")) {
      this.scrub(this.state.t + arrow[0] * STEP);
      this.save();
    } else return;
    event.preventDefault();
  }

  point(square, [dx, dy], times) {
    const at = this.cursor && this.cursor.square === square ? this.cursor.at : [0, 0];
    const bounded = (value) => Math.min(Math.max(value, -1), 1);
    this.cursor = { square, at: [bounded(at[0] + dx * STRIDE * times), bounded(at[1] + dy * STRIDE * times)] };
    this.draw();
  }

  scrub(share) {
    this.player.pause();
    this.opening = false;
    this.player.share = Math.min(Math.max(share, 0), 1);
    this.move(this.player.share);
  }

  move(share) {
    this.state.t = share;
    this.drawNow();
  }

  played(playing) {
    const button = this.part("live-play");
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
    button.classList.toggle("playing", playing);
    if (!playing && this.touched) this.save();
    if (!playing) this.draw();
  }

  /** Read the theme's colours and draw all anew. */
  paint() {
    const style = getComputedStyle(this.root);
    for (const name of COLOURS) this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    for (const { stage } of this.squares) stage.drawn = "";
    this.draw();
  }

  /** Draw at the next frame. */
  draw() {
    if (this.drawing || this.player.playing) return;
    this.drawing = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    this.drawing = 0;
    const begin = performance.now();
    if (this.opening && this.tracks.a.picture && !this.waiting()) {
      this.opening = false;
      this.player.play();
    }
    const told = !this.player.playing || begin - this.told > BEAT;
    if (told) this.told = begin;
    for (const square of this.squares) this.drawSquare(square, told);
    const { model, picture } = this.tracks.a;
    if (picture) {
      const models = [model, ...(this.second() ? [this.tracks.b.model] : [])].filter(Boolean);
      const level = alive(model) ? picture.level(this.state.t) : null;
      if (told) this.error.show(models, this.state.w, level, (m) => this.isKnown(m));
    }
    this.showTime(told);
    this.showProgress();
    this.cost = performance.now() - begin;
  }

  waiting() {
    return this.tracks.a.busy || (this.second() !== undefined && this.tracks.b.busy);
  }

  drawSquare({ figure, stage, slot, show }, told) {
    const { state, colours } = this;
    const track = this.tracks[slot];
    stage.fit();
    stage.clear();
    if (told) nameSquare(figure, state, track, show);
    if (!track.picture) {
      say(figure.querySelector(".stage-note"), track.error || `Sampling ${counted(state.n)} particles`);
      return;
    }
    const { model, picture } = track;
    const { reach } = this.source.camera(model);
    const settled = !this.player.playing;
    const look = { view: state.view, show, slot, model, w: state.w, level: picture.level(state.t), colours, settled };
    say(figure.querySelector(".stage-note"), this.scenery.lay(stage, look));
    if (!show) stage.particles(picture.at(state.t), state.trails ? picture.tails(state.t) : [], reach, colours.generated);
    if (show !== "exact" || model.kind === "exact") this.drawPaths(stage, track, reach);
    if (this.cursor && this.cursor.square.stage === stage) stage.cross(this.cursor.at.map((v) => v * reach), reach, colours.ink);
  }

  drawPaths(stage, track, reach) {
    const { ink, bg, generated } = this.colours;
    for (const path of track.paths) {
      stage.disc(path.drop, reach, 3.2, { fill: bg, stroke: ink });
      if (!path.picture) continue;
      stage.lines([path.picture.way(0, 1)], reach, ink, 1, 0.35);
      stage.lines([path.picture.way(0, this.state.t)], reach, ink, 1.5);
      const now = path.picture.at(this.state.t);
      stage.disc([now[0], now[1]], reach, 4.4, { fill: generated, stroke: ink });
    }
  }

  showTime(told) {
    const time = this.part("live-time");
    if (document.activeElement !== time || Number(time.value) !== this.state.t) time.value = this.state.t;
    if (!told) return;
    time.setAttribute("aria-valuetext", `${Math.round(100 * this.state.t)} percent of the way from noise to data`);
    clearTimeout(this.telling);
    this.telling = setTimeout(() => {
      const tracks = [this.tracks.a, ...(this.second() ? [this.tracks.b] : [])];
      if (!this.player.playing) say(this.part("live-words"), pictureWords(this.state, tracks));
    }, QUIET);
  }

  showProgress() {
    for (const { figure, slot } of this.squares) {
      const track = this.tracks[slot];
      const bar = figure.querySelector(".stage-progress");
      if (!track.busy && !bar.classList.contains("busy")) continue;
      bar.classList.toggle("busy", track.busy);
      bar.style.transform = `scaleX(${track.busy ? track.share : 0})`;
      figure.setAttribute("aria-busy", track.busy);
    }
  }

  async copy() {
    history.replaceState(null, "", `#${toHash(this.state)}`);
    const button = this.part("live-copy");
    const words = "Copy link to this view";
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Link copied";
    } catch {
      button.textContent = "Link is in the address bar";
    }
    setTimeout(() => (button.textContent = words), 2000);
  }
}

function nameSquare(figure, state, track, show) {
  const { model, plan, picture } = track;
  if (!model) return;
  const what = show ? squareWords(state.view, show) : plan ? planWords(plan) : `${counted(picture ? picture.n : 0)} samples`;
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
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (element.tagName === "P" && !element.classList.contains("unseen")) element.hidden = !text;
}

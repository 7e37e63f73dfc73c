/** The live panel: a state, the squares that show it, and what the reader does to it. */

import { Camera } from "./camera.js";
import { Controls, limitWords } from "./controls.js";
import { ErrorChart, QualityChart } from "./curves.js";
import { Menu, OWN, alive, hasLevels } from "./menu.js";
import { Player } from "./player.js";
import { readFrame } from "./readings.js";
import { Scenery } from "./scenery.js";
import { cheaper, fromHash, settle, toHash } from "./state.js";
import { Squares, say } from "./squares.js";
import { Track } from "./track.js";
import { pictureWords } from "./words.js";

const COLOURS = ["bg", "ink", "muted", "line", "accent", "target", "generated"];
const QUIET = 1200; // milliseconds without change before the words for a screen reader change
const BEAT = 80; // milliseconds between two changes of the numbers while time runs: faster cannot be read
const STEP = 0.02; // of the run, a press of an arrow key

export class Live {
  /** @param {HTMLElement} root; @param {object} live the document; @param {ArrayBuffer} blob; @param {Client} client */
  constructor(root, live, blob, client) {
    this.root = root;
    this.menu = new Menu(live);
    this.cameras = new Map();
    const camera = (model) => this.cameraOf(live, blob, model);
    const source = { client, live, blob, camera, changed: () => this.draw() };
    this.source = source;
    source.progressed = () => this.squares.showProgress();
    this.tracks = { a: new Track(source), b: new Track(source) };
    this.scenery = new Scenery(source);
    this.error = new ErrorChart(this.part("live-error"), source);
    this.quality = new QualityChart(this.part("live-quality"), source);
    this.player = new Player((share) => this.move(share), (playing) => this.played(playing));
    this.controls = new Controls(root, this.menu, (change) => this.change(change));
    this.squares = new Squares(this.part("live-stages"), this.part("live-stage"), this);
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
    const key = this.menu.hasLaw(model) ? model.law : `model ${model.index}`;
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
    this.quality.aim(model, alive(model) ? plan : null, state, (m) => this.menu.hasLaw(m));
    this.squares.arrange(state, menu);
    this.draw();
  }

  /** The model beside, or undefined. */
  second() {
    return alive(this.menu.model(this.state.model)) ? this.menu.model(this.state.beside) : undefined;
  }

  /** Is there a denoiser, and a law to hold against it? */
  isKnown(model) {
    return this.menu.hasLaw(model) && hasLevels(model);
  }

  note(model, plan) {
    const note = this.part("live-note");
    const cheap = alive(model) && cheaper(this.menu, model, this.state.n);
    const spared = cheap && this.state.sampler !== OWN && plan.id === cheap.id && !this.touched;
    const told = [limitWords(model)];
    if (spared) told.push(`Its own sampler, ${model.plans[0].text}, takes longer in a page: it starts with ${plan.text}.`);
    if (this.state.view === "field") told.push("Arrows: the probability flow; their length is the root of its speed.");
    note.textContent = told.filter(Boolean).join(" ");
    note.hidden = !note.textContent;
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
      const square = this.squares.of(target);
      if (arrow) this.squares.point(square, arrow, event.shiftKey ? 4 : 1);
      else if (key === "Enter") this.drop(square, this.squares.cursorIn(square));
      else if (key === " ") this.player.toggle();
      else return;
    } else if (key === " " && !target.matches("button, input:not([type=range]), select, summary")) this.player.toggle();
    else if (arrow && arrow[0] && target.matches("#live-time, .live-transport *, .live-scene")) {
      this.scrub(this.state.t + arrow[0] * STEP);
      this.save();
    } else return;
    event.preventDefault();
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
    this.squares.forget();
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
    this.squares.draw(told);
    const { model, picture } = this.tracks.a;
    if (picture) {
      const models = [model, ...(this.second() ? [this.tracks.b.model] : [])].filter(Boolean);
      const level = alive(model) ? picture.level(this.state.t) : null;
      if (told) this.error.show(models, this.state.w, level, (m) => this.isKnown(m));
    }
    this.showTime(told);
    this.squares.showProgress();
    this.cost = performance.now() - begin;
  }

  waiting() {
    return this.tracks.a.busy || (this.second() !== undefined && this.tracks.b.busy);
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

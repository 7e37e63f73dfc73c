/** One model on view: its particles and the paths of dropped ones, asked for when what they depend on changes. */

import { arrayView } from "./codec.js";
import { Picture } from "./picture.js";
import { readSamples } from "./readings.js";
import { alive } from "./menu.js";

export class Track {
  /** @param {{client: object, blob: ArrayBuffer, camera: (model: object) => object, changed: () => void}} source */
  constructor(source) {
    this.source = source;
    this.picture = null; // what is on view, with the model and the plan that made it
    this.model = null;
    this.plan = null;
    this.paths = [];
    this.key = "";
    this.job = null;
    this.share = null; // of the job that runs
    this.error = "";
    this.asked = new Map(); // paths, by all that they depend on
  }

  /** Show this model under this plan; the old picture stays until the new one is there. */
  aim(model, plan, { w, n, seed, drops }) {
    const key = [model.index, plan ? plan.id : "", w, n, seed].join(" ");
    if (key !== this.key) {
      this.key = key;
      if (this.job) this.job.cancel();
      this.job = null;
      this.error = "";
      if (alive(model)) this.sample(model, plan, { w, n, seed });
      else this.record(model);
    }
    this.follow(model, plan, { w, seed, drops });
  }

  get busy() {
    return this.job !== null;
  }

  sample(model, plan, { w, n, seed }) {
    const states = [];
    const total = arrayView(this.source.blob, plan.states).length / 3;
    this.share = 0;
    const job = this.source.client.call("sample", { model: model.index, plan: plan.id, w, n, seed }, (state) => {
      states.push(state);
      this.share = states.length / total;
      this.source.progressed();
    });
    this.job = job;
    job.then(
      () => {
        const picture = new Picture(this.source.camera(model), model.dim, states);
        this.settle({ picture, model, plan });
      },
      (error) => this.settle({ error: error.message }),
    );
  }

  record(model) {
    const x = readSamples(this.source.blob, model);
    const picture = x && new Picture(this.source.camera(model), 2, [{ t: 0, alpha: 1, sigma: 0, x }]);
    this.settle({ picture, model, plan: null });
  }

  settle(found) {
    this.job = null;
    Object.assign(this, found);
    this.source.changed();
  }

  /** The paths of the drops; a path stays as long as its drop. */
  follow(model, plan, { w, seed, drops }) {
    if (!alive(model) || model.dim !== 2) {
      this.paths = [];
      return;
    }
    const keys = drops.map((drop) => [model.index, plan.id, w, seed, ...drop].join(" "));
    for (const [key, path] of this.asked) {
      if (keys.includes(key)) continue;
      if (path.job) path.job.cancel();
      this.asked.delete(key);
    }
    keys.forEach((key, i) => {
      if (!this.asked.has(key)) this.asked.set(key, this.path(model, plan, { w, seed, drop: drops[i] }));
    });
    this.paths = keys.map((key) => this.asked.get(key));
  }

  path(model, plan, { w, seed, drop }) {
    const camera = this.source.camera(model);
    const [, alpha, sigma] = arrayView(this.source.blob, plan.states);
    const x = Float64Array.from(camera.unproject(drop, alpha, sigma));
    const path = { drop, picture: null };
    path.job = this.source.client.call("path", { model: model.index, plan: plan.id, w, seed, x });
    path.job.then(
      (states) => {
        path.job = null;
        path.picture = new Picture(camera, 2, states);
        this.source.changed();
      },
      () => (path.job = null),
    );
    return path;
  }
}

/** What the document offers: models by a unique name, and for each its samplers and their numbers of steps. */

/** The sampler that the model's configuration names, whatever its settings. */
export const OWN = "own";

export class Menu {
  /** @param {object} live the live document */
  constructor(live) {
    this.live = live;
    const seen = new Map();
    for (const model of live.models) seen.set(model.name, (seen.get(model.name) || 0) + 1);
    this.models = live.models.map((model, index) => ({
      ...model,
      index,
      label: seen.get(model.name) > 1 ? unique(live.models, model, index) : model.name,
      plans: model.plans.map((id) => ({ id, ...live.plans[id] })),
    }));
  }

  /** The model of that label, or undefined. */
  model(label) {
    return this.models.find((model) => model.label === label);
  }

  /** The model that a first look shows: a learned one that runs, else one that runs, else the first. */
  first() {
    const runs = this.models.filter(alive);
    return runs.find((model) => model.kind === "learned") || runs[0] || this.models[0];
  }

  /** The exact model of the same law, or undefined; it is never the model itself. */
  exactOf(model) {
    return model.exact === null || model.exact === model.index ? undefined : this.models[model.exact];
  }

  /** Is the law of the model's samples known in closed form? */
  hasLaw(model) {
    const law = this.live.laws[model.law];
    return Boolean(law) && law.kind !== "none";
  }

  /** [{value, text}], the model's own sampler first. */
  samplers(model) {
    if (!model.plans.length) return [];
    const own = { value: OWN, text: `${model.plans[0].text} (its own)` };
    const names = [...new Set(model.plans.map((plan) => plan.sampler))].filter(
      (name) => new Set(stepsOf(model, name)).size > 1 || name !== model.plans[0].sampler,
    );
    return [own, ...names.map((name) => ({ value: name, text: name }))];
  }

  /** The numbers of steps of a sampler of the model, ascending. */
  steps(model, sampler) {
    if (!model.plans.length) return [];
    if (sampler === OWN) return [model.plans[0].steps];
    return [...new Set(stepsOf(model, sampler))].sort((a, b) => a - b);
  }

  /** The plan of that sampler whose number of steps is nearest in ratio; the own plan without such a sampler. */
  plan(model, sampler, steps) {
    if (sampler === OWN) return model.plans[0];
    const family = model.plans.filter((plan) => plan.sampler === sampler);
    return family.length ? nearest(family, steps) : model.plans[0];
  }

  /** What another model runs beside `plan`: the same plan if it has it, else the nearest relative. */
  counterpart(other, plan) {
    const same = other.plans.find((candidate) => candidate.id === plan.id);
    if (same) return same;
    const twin = other.plans.find(
      (candidate) => candidate.sampler === plan.sampler && candidate.text === plan.text && candidate.nfe === plan.nfe,
    );
    return twin || this.plan(other, plan.sampler, plan.steps);
  }
}

/** Does the model run in the page? */
export function alive(model) {
  return model.kind !== "recorded" && model.plans.length > 0;
}

/** Is it drawn as fields and densities: does it run, in the plane, and denoise at every noise level? */
export function inPlane(model) {
  return alive(model) && model.dim === 2 && hasLevels(model);
}

/** Has the model a denoiser at every noise level? */
export function hasLevels(model) {
  return model.levels !== null && model.levels !== undefined;
}

/** Multiplications that a plan costs for n particles, two operations each. */
export function cost(model, plan, n) {
  return 2 * plan.nfe * Math.max(model.parameters, 1000) * n;
}

function stepsOf(model, sampler) {
  return model.plans.filter((plan) => plan.sampler === sampler).map((plan) => plan.steps);
}

function nearest(plans, steps) {
  const distance = (plan) => Math.abs(Math.log(plan.steps / Math.max(steps, 1)));
  return plans.reduce((best, plan) => (distance(plan) < distance(best) ? plan : best));
}

function unique(models, model, index) {
  const seeds = models.filter((other) => other.name === model.name).map((other) => other.seed);
  const told = new Set(seeds).size === seeds.length ? `seed ${model.seed}` : `no. ${index + 1}`;
  return `${model.name} (${told})`;
}

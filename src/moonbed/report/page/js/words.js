/** What the picture shows, in words. */

/** A number with three significant digits and a true minus. */
export function number(value) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    const [mantissa, power] = value.toExponential(1).split("e");
    return `${mantissa}e${Number(power)}`.replaceAll("-", "−");
  }
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** 1234 as 1,234. */
export function counted(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** The plan in a few words. */
export function planWords(plan) {
  const calls = plan.nfe === 1 ? "1 evaluation" : `${counted(plan.nfe)} evaluations`;
  return plan.nfe === plan.steps ? plan.text : `${plan.text}, ${calls}`;
}

/** The whole picture as one sentence a model, for a reader who does not see it. */
export function pictureWords(state, tracks) {
  const told = tracks.filter((track) => track.picture).map((track) => trackWords(state, track));
  return told.join(" ");
}

/** The values that stand below the picture: [[name, value]]. */
export function readings(state, track) {
  if (!track.picture || !track.plan) return [];
  const { t, alpha, sigma } = track.picture.level(state.t);
  const outside = track.picture.outside(state.t);
  return [
    ["t", number(t)],
    ["σ/α", number(sigma / alpha)],
    ["NFE", `${counted(state.t * track.plan.nfe)} of ${counted(track.plan.nfe)}`],
    ["outside", `${counted(outside)} of ${counted(track.picture.n)}`],
  ];
}

function trackWords(state, track) {
  const { model, plan, picture } = track;
  if (!plan) return `${model.label}: ${counted(picture.n)} recorded samples.`;
  const { t, alpha, sigma } = picture.level(state.t);
  const outside = picture.outside(state.t);
  const way = `${Math.round(100 * state.t)} % of the way`;
  const where = state.t <= 0 ? "at the noise" : state.t >= 1 ? "at the sample" : way;
  return (
    `${model.label}, ${plan.text}, ${counted(plan.nfe)} evaluations: ${counted(picture.n)} particles ${where}, ` +
    `t ${number(t)}, noise ratio ${number(sigma / alpha)}, ${outside ? counted(outside) : "none"} outside the picture.`
  );
}

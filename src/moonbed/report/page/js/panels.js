/** Which squares a state shows, and what lies on the ground of each. */

import { alive } from "./menu.js";

/** Words for what a square shows. */
const SHOWN = { learned: "learned", exact: "exact", difference: "learned minus exact" };

/** [{slot: "a" | "b", show}]: "a" is the model, "b" the one beside it. */
export function arrange(state, menu) {
  const model = menu.model(state.model);
  const other = menu.model(state.beside);
  if (state.view === "particles" || !alive(model)) {
    return other && alive(model) ? [square("a"), square("b")] : [square("a")];
  }
  if (model.kind === "exact") return [square("a", "exact")];
  if (!menu.hasLaw(model)) return [square("a", "learned")];
  const squares = (state.show === "both" ? ["learned", "exact"] : [state.show]).map((show) => square("a", show));
  const second = state.show === "both" ? "learned" : state.show;
  return other && other.kind === "learned" && second !== "exact" ? [...squares, square("b", second)] : squares;
}

/** "learned vector field"; "" for particles. */
export function squareWords(view, show) {
  return show ? `${SHOWN[show]} ${view === "field" ? "vector field" : "density"}` : "";
}

function square(slot, show = null) {
  return { slot, show };
}

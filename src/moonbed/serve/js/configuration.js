/** A configuration as Python that builds it again, like `moonbed show` prints it. */

/**
 * @param {any} value  a specification: objects with a `type` are components
 * @param {number} indent
 */
export function configuration(value, indent = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    const inner = value.map((v) => configuration(v, indent)).join(", ");
    return value.length === 1 ? `(${inner},)` : `(${inner})`;
  }
  if (typeof value !== "object") return typeof value === "string" ? JSON.stringify(value) : String(value);
  const { type, source, ...fields } = value;
  const made = Object.entries(fields);
  if (type === undefined) return `{${made.map(([k, v]) => `${JSON.stringify(k)}: ${configuration(v, indent)}`).join(", ")}}`;
  const line = `${type}(${made.map(([k, v]) => `${k}=${configuration(v, indent + 4)}`).join(", ")})`;
  if (!line.includes("\n") && line.length + indent <= 96) return line;
  const pad = " ".repeat(indent + 4);
  const lines = made.map(([k, v]) => `${pad}${k}=${configuration(v, indent + 4)},\n`).join("");
  return `${type}(\n${lines}${" ".repeat(indent)})`;
}

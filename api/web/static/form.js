// A form generated from a JSON schema: one field per leaf, named by its JSON pointer.
import { element } from "./service.js";

const HINTS = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<" };
const humanize = (key) => key.replaceAll("_", " ");
const plain = (value) =>
  Array.isArray(value) && value.every((one) => typeof one !== "object" && !String(one).includes(","));
// A value as a field's text: a list is separated by commas if none of its values has one.
export const formatValue = (value) =>
  typeof value === "string" ? value : plain(value) ? value.join(", ") : JSON.stringify(value);
let count = 0;

export class Form {
  #schemas;
  #leaves = new Map();

  constructor(box, schemas, name) {
    this.#schemas = schemas;
    this.box = box;
    const { properties, required = [] } = schemas[name];
    const simple = Object.entries(properties).filter(([, schema]) => !this.#section(schema));
    const sections = Object.entries(properties)
      .filter(([, schema]) => this.#section(schema))
      .sort(([a], [b]) => (a === "base") - (b === "base"));
    const defaults = (key) => properties[key].default ?? {};
    box.replaceChildren(
      this.#group(
        "General",
        "",
        simple.map(([key, schema]) => this.#leaf(`/${key}`, schema, schema.default, required.includes(key))),
        true,
      ),
      ...sections.flatMap(([key, schema]) => this.#sections(`/${key}`, key, this.#section(schema), defaults(key))),
    );
  }

  // The schema of a required object; a nullable or free-form one is a single field instead.
  #section(schema) {
    const made = schema.$ref && this.#schemas[schema.$ref.split("/").pop()];
    return made?.properties ? made : null;
  }

  #sections(pointer, title, schema, defaults) {
    const parts = Object.entries(schema.properties);
    const inner = parts.filter(([, one]) => this.#section(one)),
      leaves = parts.filter(([, one]) => !this.#section(one));
    const group = this.#group(
      title === "base" ? "The training of every trial" : humanize(title),
      schema.description ?? "",
      leaves.map(([key, one]) =>
        this.#leaf(`${pointer}/${key}`, one, defaults[key] ?? one.default, schema.required?.includes(key)),
      ),
      pointer === "/base" || pointer === "",
    );
    return [
      group,
      ...inner.flatMap(([key, one]) =>
        this.#sections(
          `${pointer}/${key}`,
          `${title === "base" ? "" : `${title} `}${key}`,
          this.#section(one),
          defaults[key] ?? one.default ?? {},
        ),
      ),
    ];
  }

  #group(title, description, leaves, open) {
    const group = element(
      "details",
      open ? { open: "", class: "section" } : { class: "section" },
      element("summary", {}, title, " ", element("span", { class: "changed quiet" })),
      description ? element("p", { class: "quiet" }, description.split("\n\n")[0].replaceAll("`", "")) : null,
      element("div", { class: "fields", role: "group", "aria-label": title }, ...leaves),
    );
    return group;
  }

  // The schema of a field's values other than null, and whether null is one of them.
  #resolve(schema) {
    const kinds = (schema.anyOf ?? schema.oneOf ?? [schema]).map((one) =>
      one.$ref ? { ...this.#schemas[one.$ref.split("/").pop()], type: "object" } : one,
    );
    return {
      main: kinds.find((one) => one.type !== "null") ?? {},
      nullable: kinds.some((one) => one.type === "null"),
    };
  }

  #leaf(pointer, schema, preset, required) {
    const { main, nullable } = this.#resolve(schema);
    const id = `field-${(count += 1)}`,
      key = pointer.split("/").pop();
    const isSet = preset !== null && preset !== undefined,
      isArray = main.type === "array",
      ofObjects = isArray && Boolean(main.items?.$ref || main.items?.type === "object");
    const hint = [
      schema.description,
      formatRange(main),
      isArray && !ofObjects && "with commas",
      nullable && isSet && "or null",
    ]
      .filter(Boolean)
      .join("; ");
    const free = main.type === "object" || main.additionalProperties || ofObjects;
    const input = makeInput(id, key, main, { preset, nullable, isSet, free });
    input.dataset.pointer = pointer;
    if (required) input.required = true;
    const wrong = element("span", { id: `${id}-wrong`, class: "wrong", hidden: "" });
    input.setAttribute("aria-describedby", `${hint ? `${id}-hint ` : ""}${id}-wrong`);
    this.#leaves.set(pointer, {
      input,
      wrong,
      type: free ? "json" : main.enum ? "string" : main.type,
      items: main.items?.type,
      preset,
      choices: main.enum,
    });
    return element(
      "div",
      { class: free ? "field wide" : "field" },
      element("label", { for: id }, humanize(key), required ? " (required)" : ""),
      input,
      hint ? element("span", { id: `${id}-hint`, class: "hint" }, hint) : null,
      wrong,
    );
  }

  // The body of the filled-in fields. Does not throw: text that is not a number is sent as it is, and the service's
  // error is shown.
  body() {
    const made = {};
    for (const [pointer, leaf] of this.#leaves) {
      const typed = leaf.input.value.trim();
      if (typed === "") continue;
      const [name, ...folders] = pointer.slice(1).split("/").toReversed();
      let node = made;
      for (const folder of folders.toReversed()) node = node[folder] ??= {};
      node[name] = parseValue(typed, leaf);
    }
    return made;
  }

  // Fills in the values of a body that differ from the defaults.
  fill(body, pointer = "") {
    for (const [key, value] of Object.entries(body ?? {})) {
      const inner = `${pointer}/${key}`,
        leaf = this.#leaves.get(inner);
      if (!leaf) {
        if (value && typeof value === "object" && !Array.isArray(value)) this.fill(value, inner);
        continue;
      }
      const same =
        JSON.stringify(value) === JSON.stringify(leaf.preset ?? null) ||
        (leaf.type === "json" && sameValue(value, leaf.preset));
      leaf.input.value = same
        ? ""
        : leaf.type === "json"
          ? JSON.stringify(value, null, 1)
          : value === null
            ? "null"
            : formatValue(value);
    }
    this.mark();
  }

  set(pointer, value) {
    const leaf = this.#leaves.get(pointer);
    if (leaf) {
      leaf.input.value = value;
      this.mark();
    }
  }

  // Shows in each section how many of its fields are changed.
  mark() {
    for (const group of this.box.querySelectorAll("details")) {
      let some = 0;
      for (const field of group.querySelectorAll(".field")) {
        const changed = field.querySelector("[data-pointer]").value.trim() !== "";
        field.classList.toggle("set", changed);
        some += changed;
      }
      if (some && !group.classList.contains("set")) group.open = true;
      group.classList.toggle("set", some > 0);
      group.querySelector(".changed").textContent = some ? `${some} changed` : "";
    }
  }

  // Shows each error beside its field; returns the errors that belong to no field.
  showErrors(errors) {
    for (const { input, wrong } of this.#leaves.values()) {
      input.removeAttribute("aria-invalid");
      wrong.hidden = true;
      wrong.textContent = "";
    }
    const others = [];
    let first = null;
    for (const error of errors) {
      const parts = (error.pointer ?? "").split("/");
      let leaf = null;
      while (parts.length > 1 && !(leaf = this.#leaves.get(parts.join("/")))) parts.pop();
      if (!leaf) {
        others.push(error);
        continue;
      }
      leaf.input.setAttribute("aria-invalid", "true");
      leaf.wrong.textContent = [leaf.wrong.textContent, error.detail].filter(Boolean).join("; ");
      leaf.wrong.hidden = false;
      leaf.input.closest("details").open = true;
      first ??= leaf.input;
    }
    first?.focus();
    return others;
  }
}

function formatRange(schema) {
  return Object.entries(HINTS)
    .filter(([bound]) => schema[bound] !== undefined)
    .map(([bound, sign]) => {
      const value = Number(schema[bound]);
      return `${sign} ${value.toLocaleString("en", { useGrouping: false, maximumFractionDigits: 12 })}`;
    })
    .join(", ");
}

// The control of one field: a choice, free JSON, or one line of text whose placeholder is the default.
function makeInput(id, key, schema, { preset, nullable, isSet, free }) {
  const given = isSet ? formatValue(preset) : nullable ? "none" : "";
  if (schema.enum || schema.type === "boolean") {
    const choices = schema.enum ?? [true, false];
    return element(
      "select",
      { id },
      element("option", { value: "" }, preset === undefined ? "" : `${given} (default)`),
      ...choices.filter((one) => one !== preset).map((one) => element("option", { value: String(one) }, String(one))),
      ...(nullable && isSet ? [element("option", { value: "null" }, "null")] : []),
    );
  }
  const attributes = { id, spellcheck: "false" };
  if (free) {
    const placeholder =
      preset === undefined
        ? ""
        : JSON.stringify(preset, null, 1)
            .replace(/\n\s{2,}/g, " ")
            .replace(/\n \}/g, " }");
    return element("textarea", { ...attributes, rows: Math.min(8, Math.max(2, given.length / 34)), placeholder });
  }
  if (schema.type === "integer") attributes.inputmode = "numeric";
  if (schema.type === "number") attributes.inputmode = "decimal";
  if (key === "dataset") attributes.list = "datasets";
  return element("input", { ...attributes, placeholder: given, autocomplete: "off" });
}

// Whether two values are equal, with what is absent from an object taken as null.
export function sameValue(value, preset) {
  if (value === null || preset === null || typeof value !== "object" || typeof preset !== "object")
    return value === preset;
  const keys = new Set([...Object.keys(value), ...Object.keys(preset)]);
  return [...keys].every(
    (key) => (value[key] ?? null) === (preset[key] ?? null) || sameValue(value[key] ?? null, preset[key] ?? null),
  );
}

// The value of a field's text. Text that cannot be read is the value itself, which the service then refuses.
export function parseValue(typed, { type, items }) {
  if (typed === "null") return null;
  if (type === "json" || (type === "array" && typed.startsWith("["))) {
    try {
      return JSON.parse(typed);
    } catch {
      return typed;
    }
  }
  if (type === "array")
    return typed
      .split(",")
      .map((one) => one.trim())
      .filter(Boolean)
      .map((one) => (items === "string" ? one : number(one)));
  if (type === "integer" || type === "number") return number(typed);
  if (type === "boolean") return typed === "true";
  return typed;
}

function number(typed) {
  const value = Number(typed);
  return Number.isFinite(value) ? value : typed;
}

// A form generated from a JSON schema: one field per leaf, named by its JSON pointer.
import { element } from "./service.js";

const HINTS = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<" };
const humanize = (key) => key.replaceAll("_", " ");
const plain = (value) =>
  Array.isArray(value) && value.every((one) => typeof one !== "object" && !String(one).includes(","));
const text = (value) => (typeof value === "string" ? value : plain(value) ? value.join(", ") : JSON.stringify(value));
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

  #leaf(pointer, schema, preset, required) {
    const kinds = (schema.anyOf ?? schema.oneOf ?? [schema]).map((one) =>
      one.$ref ? { ...this.#schemas[one.$ref.split("/").pop()], type: "object" } : one,
    );
    const main = kinds.find((one) => one.type !== "null") ?? {},
      nullable = kinds.some((one) => one.type === "null");
    const id = `field-${(count += 1)}`,
      key = pointer.split("/").pop();
    const range = Object.entries(HINTS)
      .filter(([bound]) => main[bound] !== undefined)
      .map(
        ([bound, sign]) =>
          `${sign} ${Number(main[bound]).toLocaleString("en", { useGrouping: false, maximumFractionDigits: 12 })}`,
      )
      .join(", ");
    const hint = [
      schema.description ?? "",
      range,
      main.type === "array" && main.items?.type !== "object" && !main.items?.$ref ? "with commas" : "",
      nullable && preset !== null && preset !== undefined ? "or null" : "",
    ]
      .filter(Boolean)
      .join("; ");
    const given = preset === undefined || preset === null ? (nullable ? "none" : "") : text(preset);
    const free =
      main.type === "object" ||
      main.additionalProperties ||
      (main.type === "array" && (main.items?.$ref || main.items?.type === "object"));
    let input;
    if (main.enum || main.type === "boolean") {
      const choices = main.enum ?? [true, false];
      input = element(
        "select",
        { id },
        element("option", { value: "" }, preset === undefined ? "" : `${given} (default)`),
        ...choices.filter((one) => one !== preset).map((one) => element("option", { value: String(one) }, String(one))),
        ...(nullable && preset !== null && preset !== undefined ? [element("option", { value: "null" }, "null")] : []),
      );
    } else if (free) {
      input = element("textarea", {
        id,
        rows: Math.min(8, Math.max(2, given.length / 34)),
        spellcheck: "false",
        placeholder:
          preset === undefined
            ? ""
            : JSON.stringify(preset, null, 1)
                .replace(/\n\s{2,}/g, " ")
                .replace(/\n \}/g, " }"),
      });
    } else {
      input = element("input", {
        id,
        placeholder: given,
        autocomplete: "off",
        spellcheck: "false",
        ...(["integer", "number"].includes(main.type)
          ? { inputmode: main.type === "integer" ? "numeric" : "decimal" }
          : {}),
        ...(key === "dataset" ? { list: "datasets" } : {}),
      });
    }
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
      node[name] = read(typed, leaf);
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
            : text(value);
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

function sameValue(value, preset) {
  if (value === null || preset === null || typeof value !== "object" || typeof preset !== "object")
    return value === preset;
  const keys = new Set([...Object.keys(value), ...Object.keys(preset)]);
  return [...keys].every(
    (key) => (value[key] ?? null) === (preset[key] ?? null) || sameValue(value[key] ?? null, preset[key] ?? null),
  );
}

function read(typed, { type, items }) {
  if (typed === "null") return null;
  if (type === "json") {
    try {
      return JSON.parse(typed);
    } catch {
      return typed;
    }
  }
  if (type === "array" && typed.startsWith("[")) {
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

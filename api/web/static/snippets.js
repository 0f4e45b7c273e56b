// The submission of a spec as source text: a curl command and a Python program.

export function curlCommand(origin, kind, body) {
  return [
    `curl -X POST ${origin}/jobs/${kind}`,
    "  -H 'Content-Type: application/json'",
    `  -d '${JSON.stringify(body, null, 1).replaceAll("'", "'\\''")}'`,
  ].join(" \\\n");
}

export function pythonProgram(origin, kind, body) {
  return [
    "from client.sdk import Client",
    "",
    `with Client("${origin}") as service:`,
    `    job = service.${kind}(${python(body, 1)})`,
    "    print(job.wait().state)",
  ].join("\n");
}

// A JSON value as Python source.
function python(value, depth) {
  const inner = " ".repeat(4 * (depth + 1)),
    end = " ".repeat(4 * depth);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((one) => python(one, depth)).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const parts = Object.entries(value).map(
    ([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, depth + 1)},`,
  );
  return parts.length ? `{\n${parts.join("\n")}\n${end}}` : "{}";
}

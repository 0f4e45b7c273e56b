// ESLint's rules for the page's scripts and their tests. Prettier decides the layout: no rule here is about layout.
import js from "@eslint/js";
import globals from "globals";

const MARKUP = "text is set as text, never as markup (service.js: element)";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2024, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      complexity: ["error", 20],
      eqeqeq: "error",
      "max-depth": ["error", 4],
      "max-lines": ["error", 400],
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "write"].map((property) => ({ property, message: MARKUP })),
      ],
      "no-shadow": "error",
      "no-unused-expressions": "error",
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  { files: ["api/web/static/*.js"], languageOptions: { globals: globals.browser } },
  { files: ["tests/web/*.js"], languageOptions: { globals: globals.node } },
];

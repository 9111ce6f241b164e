// What the linter looks for in the page and in its tests. The packages lie in .venv/.npm, where make puts them.

import { createRequire } from "node:module";

const require = createRequire(new URL("../../.venv/.npm/", import.meta.url));
const js = require("@eslint/js");
const globals = require("globals");

export default [
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: "error",
      "no-implicit-globals": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
      "require-atomic-updates": "off", // a change in the one chain of changes is what this rule takes for a race
      "no-restricted-properties": ["error", ...["innerHTML", "outerHTML", "insertAdjacentHTML"].map((property) => ({ property, message: "Text from outside never becomes markup." }))],
    },
  },
  { files: ["**/static/*.js"], languageOptions: { globals: globals.browser } },
  { files: ["**/tests/page/**"], languageOptions: { globals: globals.node } },
];

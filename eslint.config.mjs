import tseslint from 'typescript-eslint';

/** What Node gives a script; `document` stands in functions that run in a page. */
const nodeGlobals = [
  ...[
    'process',
    'console',
    'Buffer',
    'URL',
    'fetch',
    'AbortController',
    'performance',
    'structuredClone',
    'document',
  ],
  ...['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'globalThis'],
  ...['require', 'module', 'exports', '__dirname', '__filename', 'SharedArrayBuffer', 'Atomics'],
];

export default tseslint.config(
  { ignores: ['dist/', 'docs/', 'node_modules/', '.venv/', 'native/build/', 'runs/', 'native/tfjs-node/'] },
  {
    files: ['**/*.{cjs,mjs}'],
    languageOptions: { globals: Object.fromEntries(nodeGlobals.map((name) => [name, 'readonly'])) },
    rules: { 'no-undef': 'error', 'no-unused-vars': ['error', { varsIgnorePattern: '^_' }] },
  },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.recommended],
    languageOptions: { parserOptions: { project: './tsconfig.check.json' } },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'separate-type-imports' }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
    },
  },
);

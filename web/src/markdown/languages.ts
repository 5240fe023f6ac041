/** The languages of code that have colours. */

export const LANGUAGE_NAMES = [
  'bash', 'c', 'clojure', 'cmake', 'cpp', 'csharp', 'css', 'dart', 'diff', 'dockerfile', 'elixir', 'erlang', 'fortran', 'fsharp',
  'go', 'graphql', 'groovy', 'haskell', 'http', 'ini', 'java', 'javascript', 'json', 'julia', 'kotlin', 'latex', 'less', 'lisp',
  'lua', 'makefile', 'markdown', 'matlab', 'nginx', 'nix', 'objectivec', 'ocaml', 'perl', 'php', 'powershell', 'protobuf',
  'python', 'r', 'ruby', 'rust', 'scala', 'scss', 'shell', 'sql', 'swift', 'typescript', 'vbnet', 'vim', 'wasm', 'x86asm', 'xml',
  'yaml',
] as const;

export type LanguageName = (typeof LANGUAGE_NAMES)[number];

/** Other names of languages, separated by spaces. */
const ALIASES: Readonly<Partial<Record<LanguageName, string>>> = {
  bash: 'sh zsh ksh',
  clojure: 'clj edn',
  cmake: 'cmakelists',
  cpp: 'c++ cc cxx h hpp hxx cu',
  csharp: 'cs c#',
  diff: 'patch',
  dockerfile: 'docker containerfile',
  elixir: 'ex exs',
  erlang: 'erl',
  fortran: 'f90 f95',
  fsharp: 'fs f#',
  go: 'golang',
  graphql: 'gql',
  groovy: 'gradle',
  haskell: 'hs',
  http: 'https',
  ini: 'toml cfg conf properties env dotenv',
  java: 'jsp',
  javascript: 'js jsx mjs cjs node',
  json: 'json5 jsonc jsonl ndjson',
  julia: 'jl',
  kotlin: 'kt kts',
  latex: 'tex',
  lisp: 'scheme elisp racket',
  makefile: 'make mk',
  markdown: 'md mdx',
  matlab: 'octave',
  nginx: 'nginxconf',
  nix: 'nixos',
  objectivec: 'objc m obj-c',
  ocaml: 'ml',
  perl: 'pl pm',
  powershell: 'ps1 pwsh ps',
  protobuf: 'proto',
  python: 'py py3 python3 gyp ipython',
  r: 'rlang',
  ruby: 'rb gemspec',
  rust: 'rs',
  shell: 'console shellsession terminal',
  sql: 'postgres postgresql mysql sqlite plsql pgsql',
  typescript: 'ts tsx mts cts',
  vbnet: 'vb',
  vim: 'vimscript viml',
  wasm: 'wat',
  x86asm: 'asm nasm assembly',
  xml: 'html xhtml svg vue svelte rss atom plist htm',
  yaml: 'yml',
};

const NAMES = new Map<string, LanguageName>();
for (const name of LANGUAGE_NAMES) {
  NAMES.set(name, name);
  for (const alias of ALIASES[name]?.split(' ') ?? []) NAMES.set(alias, name);
}

/** Returns the language that a block of code names. */
export function findLanguage(name: string): LanguageName | null {
  return NAMES.get(name.toLowerCase()) ?? null;
}

import {defineConfig} from 'vitest/config';
import {createHash} from 'node:crypto';
import {readdirSync, readFileSync} from 'node:fs';
import type {Plugin, Rolldown} from 'vite';

type OutputAsset = Rolldown.OutputAsset;
type OutputChunk = Rolldown.OutputChunk;

/** Names the files of the shell in the service worker, which caches them when it is installed. */
function shellManifest(): Plugin {
  return {
    name: 'shell-manifest',
    apply: 'build',
    enforce: 'post', // Vite removes entries that only import
    generateBundle(_, bundle) {
      const worker = bundle['service-worker.js'];
      if (worker?.type !== 'chunk') this.error('The service worker is not part of the build.');
      const built = Object.keys(bundle).filter(name => name !== 'service-worker.js');
      const files = [...built, ...readdirSync(new URL('public', import.meta.url))].sort();
      const paths = ['', ...files].filter(name => name !== 'index.html').map(name => `/${name}`);
      worker.code = worker.code
        .replace('__SHELL_FILES__', JSON.stringify(paths))
        .replace('__SHELL_VERSION__', JSON.stringify(hashFiles(Object.values(bundle))));
    },
  };
}

/** Returns the version of the page: it changes with every file. */
function hashFiles(files: readonly (OutputAsset | OutputChunk)[]): string {
  const hash = createHash('sha256');
  for (const file of [...files].sort((one, other) => (one.fileName < other.fileName ? -1 : 1))) {
    hash.update(file.fileName).update(file.type === 'chunk' ? file.code : file.source);
  }
  const folder = new URL('public/', import.meta.url);
  for (const name of readdirSync(folder).sort()) hash.update(name).update(readFileSync(new URL(name, folder)));
  return hash.digest('hex').slice(0, 16);
}

export default defineConfig({
  plugins: [shellManifest()],
  oxc: {jsx: {runtime: 'automatic', importSource: 'preact'}},
  build: {
    outDir: '../ctllm/page',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0, // the policy of the page forbids fonts and styles in data: URLs
    modulePreload: {polyfill: false}, // the polyfill would be an inline script
    reportCompressedSize: false,
    rolldownOptions: {
      input: {index: 'index.html', 'service-worker': 'src/service-worker.ts'},
      output: {
        entryFileNames: ({name}) => (name === 'service-worker' ? '[name].js' : 'assets/[name]-[hash].js'),
        // A phone pays a round trip for every six files: what the first screen needs is one file.
        codeSplitting: {groups: [{name: 'shell', tags: ['$initial'], test: id => !id.includes('service-worker')}]},
      },
    },
  },
  worker: {format: 'es'},
  test: {environment: 'jsdom', testTimeout: 60_000, include: ['src/**/*.test.{ts,tsx}']},
});

import {defineConfig} from 'vitest/config';
import {readdirSync} from 'node:fs';
import type {Plugin} from 'vite';

/** Names the files of the shell in the service worker, which caches them when it is installed. */
function shellManifest(): Plugin {
  return {
    name: 'shell-manifest',
    apply: 'build',
    generateBundle(_, bundle) {
      const worker = bundle['service-worker.js'];
      if (worker?.type !== 'chunk') this.error('The service worker is not part of the build.');
      const built = Object.keys(bundle).filter(name => name !== 'service-worker.js');
      const files = [...built, ...readdirSync(new URL('public', import.meta.url))].sort();
      worker.code = worker.code.replace('__SHELL_FILES__', JSON.stringify(['', ...files].map(name => `/${name}`)));
    },
  };
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
      },
    },
  },
  worker: {format: 'es'},
  test: {environment: 'jsdom', testTimeout: 60_000, include: ['src/**/*.test.{ts,tsx}']},
});

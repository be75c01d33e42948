import { tallyProject } from '@tally/testkit/vitest';

export default tallyProject({
  // A dependency of the AI SDK has a `source` of its own, in TypeScript: it must go through vite.
  server: { deps: { inline: [/^ai$/, /\/node_modules\/ai\//, /@ai-sdk\//, /eventsource-parser/] } },
});

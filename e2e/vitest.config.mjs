import { tallyProject } from '@tally/testkit/vitest';

export default tallyProject({ testTimeout: 180_000, hookTimeout: 180_000, fileParallelism: false });

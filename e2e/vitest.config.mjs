import { tallyProject } from '@tally/testkit/vitest';

export default tallyProject();

import { writeFileSync } from 'node:fs';
import { hashOfSources, STAMP } from './sources.mjs';

// Run at the end of each build, in the folder of the package: records which sources it was built from.
writeFileSync(STAMP, hashOfSources('.'));

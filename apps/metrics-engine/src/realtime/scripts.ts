import { readFileSync } from 'node:fs';

/** Returns the text of a script in `lua/`. */
export const script = (name: string): string => readFileSync(new URL(`../../lua/${name}.lua`, import.meta.url), 'utf8');

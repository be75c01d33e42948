import { readFileSync } from 'node:fs';

const FOLDER = new URL('../../lua/', import.meta.url);

/** Returns the text of `lua/<name>.lua`. */
export const lua = (name: string): string => readFileSync(new URL(`${name}.lua`, FOLDER), 'utf8');

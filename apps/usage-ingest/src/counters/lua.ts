import { readFileSync } from 'node:fs';

const FOLDER = new URL('../../lua/', import.meta.url);

/** The text of `lua/<name>.lua`. */
export const lua = (name: string): string => readFileSync(new URL(`${name}.lua`, FOLDER), 'utf8');

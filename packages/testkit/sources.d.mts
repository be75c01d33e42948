export const STAMP: string;
/** Returns whether a package is built from its present sources. */
export function isBuilt(folder: string): boolean;
/** Returns a hash of what the build of a package reads: its sources without tests, and its settings. */
export function hashOfSources(folder: string): string;

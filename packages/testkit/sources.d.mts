export const STAMP: string;
/** Returns a hash of what the build of a package reads: its sources without tests, and its settings. */
export function hashOfSources(folder: string): string;

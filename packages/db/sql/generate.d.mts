/** Every generated statement, by the name of its file. */
export function files(): Record<string, string>;

export function boundLogs(folder: string, signal: AbortSignal): void;
export function cutLogs(folder: string, maxBytes?: number): Promise<void>;

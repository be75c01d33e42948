export const Directory = () => null;

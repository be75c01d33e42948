export const Live = () => null;

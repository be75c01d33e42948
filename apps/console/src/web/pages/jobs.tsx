export const Jobs = () => null;

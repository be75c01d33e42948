/** The release, as in the `package.json` of every package and in the tag of the image; a test compares them. */
export const VERSION = '0.1.0';

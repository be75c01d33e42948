// openapi-typescript writes types with the compiler's former API, which TypeScript 7 does not have.
const readPackage = (manifest) => {
  if (manifest.name === 'openapi-typescript') {
    delete manifest.peerDependencies.typescript;
    manifest.dependencies.typescript = '5.9.3';
  }
  return manifest;
};

module.exports = { hooks: { readPackage } };

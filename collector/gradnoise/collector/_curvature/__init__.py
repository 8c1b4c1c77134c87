"""The curvature at frozen parameters: products with the Hessian, its eigenpairs and traces, the noise along them."""

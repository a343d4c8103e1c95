import java.io.FileReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Security;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.List;
import org.bouncycastle.asn1.ASN1Encoding;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.jcajce.JcaCertStore;
import org.bouncycastle.cert.jcajce.JcaX509CertificateConverter;
import org.bouncycastle.cms.CMSAbsentContent;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.CMSSignedDataGenerator;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSignerInfoGeneratorBuilder;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;
import org.bouncycastle.util.Store;

/** Bouncy Castle as a publisher and a reader of trust bundles, as the Java reference does it. */
public class Bundles {
    public static void main(String[] words) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        switch (words[0]) {
            case "make" -> make(Path.of(words[1]), words[2], words[3], words[4]);
            case "read" -> read(words[1]);
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    /** Write plain.p7b, described.p7b and, in DER and BER, signed.p7m into a folder. */
    private static void make(Path folder, String anchors, String signer, String key)
            throws Exception {
        CMSSignedDataGenerator plain = new CMSSignedDataGenerator();
        plain.addCertificates(new JcaCertStore(certificates(anchors)));
        CMSSignedData bundle = plain.generate(new CMSAbsentContent(), false);
        Files.write(folder.resolve("plain.p7b"), bundle.getEncoded());
        CMSProcessableByteArray text = new CMSProcessableByteArray("<bundle/>".getBytes());
        Files.write(folder.resolve("described.p7b"), plain.generate(text, true).getEncoded());

        X509Certificate certificate = certificates(signer).get(0);
        CMSSignedDataGenerator signed = new CMSSignedDataGenerator();
        signed.addSignerInfoGenerator(
            new JcaSignerInfoGeneratorBuilder(
                new JcaDigestCalculatorProviderBuilder().setProvider("BC").build())
                .build(new JcaContentSignerBuilder("SHA256withRSA").setProvider("BC")
                    .build(key(key)), certificate));
        signed.addCertificates(new JcaCertStore(certificates(signer)));
        CMSSignedData outer =
            signed.generate(new CMSProcessableByteArray(bundle.getEncoded()), true);
        Files.write(folder.resolve("signed-ber.p7m"), outer.getEncoded());
        Files.write(folder.resolve("signed-der.p7m"), outer.getEncoded(ASN1Encoding.DER));
    }

    /** Print the serial numbers of a bundle's anchors; a signed one must verify. */
    private static void read(String file) throws Exception {
        CMSSignedData data = new CMSSignedData(Files.readAllBytes(Path.of(file)));
        if (data.getSignerInfos().size() > 0) {
            for (SignerInformation signer : data.getSignerInfos()) {
                Object holder =
                    data.getCertificates().getMatches(signer.getSID()).iterator().next();
                if (!signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC")
                        .build((X509CertificateHolder) holder))) {
                    throw new SecurityException("bad signature");
                }
            }
            data = new CMSSignedData((byte[]) data.getSignedContent().getContent());
        }
        Store<X509CertificateHolder> found = data.getCertificates();
        for (X509CertificateHolder holder : found.getMatches(null)) {
            System.out.println(holder.getSerialNumber());
        }
    }

    private static List<X509Certificate> certificates(String file) throws Exception {
        List<X509Certificate> found = new ArrayList<>();
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            for (Object item = parser.readObject(); item != null; item = parser.readObject()) {
                found.add(new JcaX509CertificateConverter().setProvider("BC")
                    .getCertificate((X509CertificateHolder) item));
            }
        }
        return found;
    }

    private static java.security.PrivateKey key(String file) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            return new JcaPEMKeyConverter().setProvider("BC")
                .getPrivateKey((PrivateKeyInfo) parser.readObject());
        }
    }
}
